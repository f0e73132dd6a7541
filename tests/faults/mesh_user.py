"""A user of the mesh who knows that it breaks: calls are made again, under the same request id, until answered."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from reeltune.catalog.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    model_pb2,
    model_service_pb2,
    visibility_pb2,
)
from reeltune.scheduler.v1 import job_event_pb2, rehearsal_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.rpc.client import bearer
from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client import Client
from reeltune_cli.client.watch import FINAL_JOB_STATES
from tests.e2e.running_mesh import PASSWORD
from tests.e2e.training_material import Material, register_dataset, register_model
from tests.faults.fault_mesh import FaultMesh
from tests.faults.lifecycle_model import Life, check_life, name
from tests.faults.mesh_process import MeshProcess

T = TypeVar("T")
PATIENCE_SECONDS = 120.0
_CALL_SECONDS = 5.0
_PAUSE_SECONDS = 0.2
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_CUT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
"""How a connection looks that broke under a call, when no service has given a reason."""


def rehearsal(
    steps: int = 6,
    step_milliseconds: int = 20,
    *misbehaviors: tuple[str, int] | tuple[str, int, int],
    checkpoint_every_steps: int = 2,
    checkpoint_bytes: int = 2000,
    artifact_bytes: int = 5000,
) -> parameters_pb2.TrainingParameters:
    """Parameters of a rehearsal; misbehaviors are (kind, after which step, in how many attempts)."""
    return parameters_pb2.TrainingParameters(
        optimization=parameters_pb2.OptimizationParameters(max_steps=steps),
        checkpoint_every_steps=checkpoint_every_steps,
        rehearsal=rehearsal_pb2.RehearsalParameters(
            step_milliseconds=step_milliseconds,
            checkpoint_bytes=checkpoint_bytes,
            artifact_bytes=artifact_bytes,
            misbehaviors=[_misbehavior(*each) for each in misbehaviors],
        ),
    )


def _misbehavior(kind: str, at_step: int, attempts: int = 0) -> rehearsal_pb2.Misbehavior:
    value = rehearsal_pb2.MisbehaviorKind.Value(f"MISBEHAVIOR_KIND_{kind}")
    return rehearsal_pb2.Misbehavior(kind=value, at_step=at_step, attempts=attempts)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job at its end, found to have had a possible life."""

    job: job_pb2.TrainingJob
    life: Life
    events: list[job_event_pb2.JobEvent]

    @property
    def state(self) -> str:
        return name(self.job.state)

    @property
    def reason(self) -> str:
        return job_pb2.StateReason.Name(self.job.reason).removeprefix("STATE_REASON_")


@dataclass(frozen=True, slots=True)
class Directly:
    """One replica's stub, and what to call it with."""

    training: TrainingServiceStub
    metadata: tuple[tuple[str, str], ...]

    async def create(self, request: pb.CreateTrainingJobRequest) -> job_pb2.TrainingJob:
        """Sends a request once."""
        call = self.training.CreateTrainingJob(request, metadata=self.metadata, timeout=_CALL_SECONDS)
        return (await call).job

    async def state(self, job_id: str) -> str:
        """The job's state in a word."""
        request = pb.GetTrainingJobRequest(job_id=job_id)
        call = self.training.GetTrainingJob(request, metadata=self.metadata, timeout=_CALL_SECONDS)
        return name((await call).job.state)


class MeshUser:
    """A signed-in user with a model and a dataset."""

    def __init__(self, client: Client, model_id: str, dataset_id: str) -> None:
        self.client = client
        self.model_id = model_id
        self.dataset_id = dataset_id
        self.repeats_crashes = False
        """Whether a call is repeated that ended in an unforeseen error of a service. For those whose services are armed
        to raise one, and who read in the services' logs whether there were others."""

    def request(
        self, parameters: parameters_pb2.TrainingParameters | None = None, *, request_id: str = "", **fields: Any
    ) -> pb.CreateTrainingJobRequest:
        """A request for a job, by default a short rehearsal, that may be sent any number of times."""
        return pb.CreateTrainingJobRequest(
            model_id=self.model_id,
            dataset_id=self.dataset_id,
            parameters=parameters or rehearsal(),
            request_id=request_id or str(uuid.uuid4()),
            **fields,
        )

    @contextlib.asynccontextmanager
    async def at(self, process: MeshProcess) -> AsyncIterator[Directly]:
        """Speaks with one replica alone, past the edge, and tries nothing twice."""
        token = await self.client.session.access_token()
        async with grpc.aio.insecure_channel(process.target) as channel:
            yield Directly(TrainingServiceStub(channel), bearer(token))

    async def create(
        self, parameters: parameters_pb2.TrainingParameters | None = None, **fields: Any
    ) -> job_pb2.TrainingJob:
        """Submits a job, until the mesh has answered."""
        return await self.submit(self.request(parameters, **fields))

    async def submit(self, request: pb.CreateTrainingJobRequest) -> job_pb2.TrainingJob:
        """Sends a request, until the mesh has answered."""
        response: pb.CreateTrainingJobResponse = await self.ask("CreateTrainingJob", request)
        return response.job

    async def get(self, job_id: str) -> job_pb2.TrainingJob:
        """Returns the job as it is now."""
        response: pb.GetTrainingJobResponse = await self.ask("GetTrainingJob", pb.GetTrainingJobRequest(job_id=job_id))
        return response.job

    async def state(self, job_id: str) -> str:
        """The job's state in a word."""
        return name((await self.get(job_id)).state)

    async def list_ids(self, name_part: str = "") -> list[str]:
        """Ids of all jobs, or of those with a part in their name."""
        found: list[str] = []
        request = pb.ListTrainingJobsRequest(page_size=500, filter=f'name : "{name_part}"' if name_part else "")
        while True:
            page: pb.ListTrainingJobsResponse = await self.ask("ListTrainingJobs", request)
            found += [job.id for job in page.jobs]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def stop(self, job_id: str) -> job_pb2.TrainingJob:
        """Stops the job, until the mesh has answered."""
        response: pb.StopTrainingJobResponse = await self.ask(
            "StopTrainingJob", pb.StopTrainingJobRequest(job_id=job_id)
        )
        return response.job

    async def events(self, job_id: str) -> list[job_event_pb2.JobEvent]:
        """Returns all events as they are stored."""
        found: list[job_event_pb2.JobEvent] = []
        request = history.ListEventsRequest(job_id=job_id, page_size=1000)
        while True:
            page = await self.ask("ListEvents", request)
            found += page.events
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def ended(self, job_id: str, seconds: float = PATIENCE_SECONDS) -> Ended:
        """Waits for the job's end and checks its life, its artifact included.

        Raises:
            AssertionError: it does not end in time, or its life is not a possible one.
        """
        give_up_at = time.monotonic() + seconds
        while (job := await self.get(job_id)).state not in FINAL_JOB_STATES:
            told = f"job {job_id} is {name(job.state)} after {seconds:.0f} s: {job}"
            assert time.monotonic() < give_up_at, told
            await asyncio.sleep(_PAUSE_SECONDS)
        events = await self.events(job_id)
        ended = Ended(job, check_life(events), events)
        assert ended.life.states[-1] == ended.state
        assert job.attempt == len(ended.life.attempts)
        await self._check_artifact(ended)
        return ended

    async def all_ended(self, job_ids: Iterable[str], seconds: float = PATIENCE_SECONDS) -> Sequence[Ended]:
        """Waits for the ends of several jobs."""
        return await asyncio.gather(*(self.ended(job_id, seconds) for job_id in job_ids))

    async def artifact(self, job_id: str) -> Any:
        """Returns the job's artifact, with URLs."""
        return (await self.ask("GetArtifact", history.GetArtifactRequest(job_id=job_id))).artifact

    async def ask(self, method: str, request: Any) -> Any:
        """Calls an rpc of the TrainingService, until the mesh has answered."""
        call = getattr(self.client.training, method)
        return await self.patiently(lambda: call(request, timeout=_CALL_SECONDS))

    async def patiently(self, call: Callable[[], Awaitable[T]], seconds: float = PATIENCE_SECONDS) -> T:
        """Calls again as long as the mesh is out of reach. Raises what it answers else."""
        give_up_at = time.monotonic() + seconds
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                crashed = error.code() is grpc.StatusCode.INTERNAL and self.repeats_crashes
                if not (is_passing(error) or crashed) or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _check_artifact(self, ended: Ended) -> None:
        if not ended.job.has_artifact:
            assert ended.state != "COMPLETED", f"job {ended.job.id} completed and has no artifact"
            return
        artifact = await self.artifact(ended.job.id)
        assert artifact.attempt == ended.life.attempts[-1], f"the artifact of {ended.job.id} is of another attempt"


@contextlib.asynccontextmanager
async def signed_up(
    mesh: FaultMesh, material: Material | None = None, like: MeshUser | None = None
) -> AsyncIterator[MeshUser]:
    """Gives a new user, who brings a model and a dataset for everybody, or uses another's."""
    async with Client(mesh.endpoint) as client:
        username = f"user-{secrets.token_hex(4)}"
        await client.session.sign_up(username, f"{username}@example.com", PASSWORD)
        if like is not None:
            yield MeshUser(client, like.model_id, like.dataset_id)
            return
        assert material is not None, "somebody must bring a model and clips"
        model, dataset = await asyncio.gather(
            register_model(client, material.model), register_dataset(client, material.dataset)
        )
        assert (model.state, dataset.state) == (model_pb2.MODEL_STATE_READY, dataset_pb2.DATASET_STATE_READY)
        await _share(client, model.id, dataset.id)
        yield MeshUser(client, model.id, dataset.id)


def is_passing(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether a call failed for a trouble that passes."""
    if error.code() in _PASSING:
        return True
    return error.code() in _CUT and failure_from_rpc_error(error).reason.startswith("RPC_")


async def _share(client: Client, model_id: str, dataset_id: str) -> None:
    shared = visibility_pb2.VISIBILITY_SHARED
    await client.models.UpdateModel(
        model_service_pb2.UpdateModelRequest(model=model_pb2.Model(id=model_id, visibility=shared))
    )
    await client.datasets.UpdateDataset(
        dataset_service_pb2.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(id=dataset_id, visibility=shared))
    )
