"""The scheduler, as a user whose token came with a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from reeltune.scheduler.v1 import training_history_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.rpc.client import bearer
from meshkit.rpc.failure import Failure
from trainer_svc.clients.parameters import quantization_from_proto, sampling_from_proto
from trainer_svc.clients.rpc_errors import passed_on
from trainer_svc.clients.scheduler_messages import files_from_proto
from trainer_svc.domain.attempt import RemoteFile


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
        with passed_on():
            response = await self._stub.GetTrainingJob(
                pb.GetTrainingJobRequest(job_id=job_id), metadata=bearer(user_token)
            )
        parameters = response.job.parameters
        return TunedJob(
            job_id=response.job.id,
            model_id=response.job.model_id,
            quantization=quantization_from_proto(parameters.quantization),
            sampling=sampling_from_proto(parameters.sampling),
        )

    async def can_see(self, user_token: str, job_id: str) -> bool:
        """Tells whether the job exists for this user."""
        try:
            await self.get_job(user_token, job_id)
        except Failure as failure:
            if failure.code is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def get_adapter_files(self, user_token: str, job_id: str) -> tuple[RemoteFile, ...]:
        """The files of the job's artifact, with URLs."""
        with passed_on():
            response = await self._stub.GetArtifact(
                training_history_pb2.GetArtifactRequest(job_id=job_id), metadata=bearer(user_token)
            )
        return files_from_proto(response.artifact.files)
