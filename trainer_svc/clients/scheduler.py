"""The scheduler, as a worker and its attempts call it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
from reeltune.scheduler.v1 import attempt_service_pb2 as pb
from reeltune.scheduler.v1 import checkpoint_service_pb2, source_service_pb2, training_job_pb2
from reeltune.scheduler.v1.attempt_service_pb2_grpc import AttemptServiceStub
from reeltune.scheduler.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from reeltune.scheduler.v1.source_service_pb2_grpc import SourceServiceStub

from meshkit.rpc.client import bearer
from trainer_svc.clients.rpc_errors import typed_errors
from trainer_svc.clients.scheduler_messages import (
    checkpoint_from_proto,
    claim_from_proto,
    device_to_proto,
    files_from_proto,
    files_to_proto,
    progress_to_proto,
    reason_to_proto,
    recipes_to_proto,
    report_to_proto,
)
from trainer_svc.domain.attempt import FailReason, JobClaim, Recipe, RemoteCheckpoint, RemoteFile, fit_message
from trainer_svc.domain.device import Device
from trainer_svc.domain.errors import SchedulerUnavailableError
from trainer_svc.domain.reports import NumberedReport, Progress

if TYPE_CHECKING:
    from reeltune.scheduler.v1.attempt_service_pb2_grpc import AttemptServiceAsyncStub

_VERIFYING_SECONDS = 280.0
"""The scheduler reads every byte that was published before it answers."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What the scheduler answered to a registration."""

    worker_id: str
    token: str = field(repr=False)
    expire_time: datetime
    """When to have registered again, UTC."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """One message down an attempt's stream."""

    report: int
    """All reports up to this number are recorded."""
    has_stop_order: bool
    has_drain_order: bool
    grant: str = field(repr=False)
    """A new grant; empty while the present one will do."""


class AttemptStream:
    """An attached attempt."""

    def __init__(self, stub: AttemptServiceAsyncStub, grant: str) -> None:
        # We bring our own request iterator: the one that grpc.aio makes for `write` on a channel with interceptors
        # is never finished when the call breaks, and leaves a pending task behind for every break.
        self._outbox: asyncio.Queue[pb.AttachRequest | None] = asyncio.Queue(maxsize=1)
        self._call = stub.Attach(self._requests(), metadata=bearer(grant))

    async def send(self, report: NumberedReport) -> None:
        """Sends a report; on a broken stream it waits, and `receive` says what is wrong."""
        await self._outbox.put(report_to_proto(report))

    async def send_heartbeat(self) -> None:
        await self._outbox.put(pb.AttachRequest())

    async def receive(self) -> Acknowledgement:
        """The scheduler's next message.

        Raises:
            AttemptFencedError, SchedulerUnavailableError, CredentialRefusedError: the stream has ended, and why.
        """
        with typed_errors():
            response = await self._call.read()
        if not isinstance(response, pb.AttachResponse):
            raise SchedulerUnavailableError("the scheduler closed the stream")
        return Acknowledgement(
            report=response.acknowledged_report,
            has_stop_order=response.order == pb.ORDER_STOP,
            has_drain_order=response.order == pb.ORDER_DRAIN,
            grant=response.grant,
        )

    def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        with contextlib.suppress(asyncio.QueueEmpty):
            self._outbox.get_nowait()
        self._outbox.put_nowait(None)

    async def _requests(self) -> AsyncIterator[pb.AttachRequest]:
        while (request := await self._outbox.get()) is not None:
            yield request


class SchedulerClient:
    """`AttemptService`, `CheckpointService` and `SourceService`.

    Every method raises the errors of `rpc_errors.typed_errors`.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AttemptServiceStub(channel)
        self._checkpoints = CheckpointServiceStub(channel)
        self._sources = SourceServiceStub(channel)

    async def register(
        self,
        *,
        join_secret: str,
        worker_id: str,
        name: str,
        device: Device,
        version: str,
        recipes: Iterable[Recipe],
    ) -> Registration:
        request = pb.RegisterWorkerRequest(
            join_secret=join_secret,
            worker_id=worker_id,
            name=name,
            device=device_to_proto(device),
            version=version,
            recipes=recipes_to_proto(recipes),
        )
        with typed_errors():
            response = await self._stub.RegisterWorker(request)
        expire_time = response.token_expire_time.ToDatetime(tzinfo=UTC)
        return Registration(response.worker_id, response.worker_token, expire_time)

    async def claim(self, worker_token: str) -> JobClaim | None:
        """The next job for this worker, or None when there is none."""
        with typed_errors():
            response = await self._stub.ClaimJob(pb.ClaimJobRequest(), metadata=bearer(worker_token))
        return claim_from_proto(response.claim) if response.HasField("claim") else None

    @contextlib.asynccontextmanager
    async def attach(self, grant: str) -> AsyncIterator[AttemptStream]:
        """Opens the attempt's stream; leaving the block ends it."""
        stream = AttemptStream(self._stub, grant)
        try:
            yield stream
        finally:
            stream.close()

    async def prepare_files(
        self, grant: str, files: Sequence[RemoteFile], checkpoint_step: int | None
    ) -> tuple[RemoteFile, ...]:
        """The same files with URLs to PUT them to."""
        request = pb.PrepareFilesRequest(files=files_to_proto(files), checkpoint_step=checkpoint_step)
        with typed_errors():
            response = await self._stub.PrepareFiles(request, metadata=bearer(grant))
        return files_from_proto(response.files)

    async def find_checkpoint(self, grant: str, older_than: RemoteCheckpoint | None) -> RemoteCheckpoint | None:
        """The newest checkpoint of the attempt's job, or of those older than one of them; None when there is none."""
        request = checkpoint_service_pb2.FindCheckpointRequest()
        if older_than is not None:
            request.older_than.attempt, request.older_than.step = older_than.attempt, older_than.step
        with typed_errors():
            response = await self._checkpoints.FindCheckpoint(request, metadata=bearer(grant))
        return checkpoint_from_proto(response.checkpoint) if response.HasField("checkpoint") else None

    async def get_source_files(self, grant: str) -> tuple[RemoteFile, ...]:
        """The artifact of the job that the attempt's job begins with, with URLs."""
        with typed_errors():
            response = await self._sources.GetSourceArtifact(
                source_service_pb2.GetSourceArtifactRequest(), metadata=bearer(grant)
            )
        return files_from_proto(response.artifact.files)

    async def commit_checkpoint(
        self, grant: str, step: int, files: Sequence[RemoteFile], eval_loss: float | None = None
    ) -> None:
        checkpoint = pb.Checkpoint(step=step, files=files_to_proto(files), eval_loss=eval_loss)
        with typed_errors():
            await self._stub.CommitCheckpoint(
                pb.CommitCheckpointRequest(checkpoint=checkpoint), metadata=bearer(grant), timeout=_VERIFYING_SECONDS
            )

    async def complete_attempt(
        self, grant: str, files: Sequence[RemoteFile], progress: Progress, early_end: str = ""
    ) -> str:
        """The job's state after it: `COMPLETED` or `STOPPED`."""
        request = pb.CompleteAttemptRequest(
            files=files_to_proto(files), progress=progress_to_proto(progress), early_end=fit_message(early_end)
        )
        with typed_errors():
            response = await self._stub.CompleteAttempt(request, metadata=bearer(grant), timeout=_VERIFYING_SECONDS)
        return _state_name(response.state)

    async def fail_attempt(self, grant: str, reason: FailReason, message: str) -> str:
        """The job's state after it: `QUEUED`, `STOPPED` or `FAILED`."""
        request = pb.FailAttemptRequest(reason=reason_to_proto(reason), message=fit_message(message))
        with typed_errors():
            response = await self._stub.FailAttempt(request, metadata=bearer(grant))
        return _state_name(response.state)


def _state_name(state: training_job_pb2.JobState.ValueType) -> str:
    return training_job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
