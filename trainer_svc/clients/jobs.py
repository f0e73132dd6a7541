"""The scheduler, as a user whose token came with a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from reeltune.scheduler.v1 import recipe_pb2, training_history_pb2, training_job_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.rpc.client import bearer
from meshkit.rpc.failure import Failure
from trainer_svc.clients.parameters import quantization_from_proto, sampling_from_proto
from trainer_svc.clients.rpc_errors import passed_on
from trainer_svc.clients.scheduler_messages import files_from_proto
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import QuestionRefusedError

_TRAINS_NOTHING = {recipe_pb2.RECIPE_EVALUATION: "an evaluation", recipe_pb2.RECIPE_MERGE: "a merge"}


@dataclass(frozen=True, slots=True)
class TunedJob:
    """What inference needs to know of a job."""

    job_id: str
    model_id: str
    quantization: Mapping[str, Any]
    """Fields of the training library's `QuantizationSpec`: an adapter answers on the weights that it was trained on."""
    sampling: Mapping[str, Any]
    """Fields of the training library's `SamplingSpec`."""


class JobsClient:
    """`TrainingService`. What the scheduler says about the request goes on to the caller as it is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainingServiceStub(channel)

    async def get_job(self, user_token: str, job_id: str) -> TunedJob:
        """The job. Raises QuestionRefusedError for one that does not train what could be asked."""
        job = await self._get(user_token, job_id)
        if kind := _TRAINS_NOTHING.get(job.recipe):
            raise QuestionRefusedError(
                f"{job.id} is {kind} and has no adapter; ask the training it began with, {job.source_job_id}"
            )
        parameters = job.parameters
        return TunedJob(
            job_id=job.id,
            model_id=job.model_id,
            quantization=quantization_from_proto(parameters.quantization),
            sampling=sampling_from_proto(parameters.sampling),
        )

    async def can_see(self, user_token: str, job_id: str) -> bool:
        """Tells whether the job exists for this user."""
        try:
            await self._get(user_token, job_id)
        except Failure as failure:
            if failure.code is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _get(self, user_token: str, job_id: str) -> training_job_pb2.TrainingJob:
        with passed_on():
            response = await self._stub.GetTrainingJob(
                pb.GetTrainingJobRequest(job_id=job_id), metadata=bearer(user_token)
            )
        return response.job

    async def get_adapter_files(self, user_token: str, job_id: str) -> tuple[RemoteFile, ...]:
        """The files of the job's artifact, with URLs."""
        with passed_on():
            response = await self._stub.GetArtifact(
                training_history_pb2.GetArtifactRequest(job_id=job_id), metadata=bearer(user_token)
            )
        return files_from_proto(response.artifact.files)
