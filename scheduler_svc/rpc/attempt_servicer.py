"""AttemptService: what trainers call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from reeltune.auth.v1 import session_pb2
from reeltune.scheduler.v1 import attempt_service_pb2 as pb
from reeltune.scheduler.v1.attempt_service_pb2_grpc import AttemptServiceServicer

from meshkit.auth.principal import current_principal
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.job import MAX_MESSAGE_BYTES, clean_text
from scheduler_svc.rpc.attempt_convert import (
    checkpoint_to_proto,
    device_from_proto,
    files_from_proto,
    prepared_to_proto,
    progress_from_proto,
    recipes_from_proto,
    reports_from_proto,
    worker_id_from_text,
)
from scheduler_svc.rpc.caller import Context, calling_attempt, calling_worker
from scheduler_svc.rpc.convert import (
    check_printable,
    job_to_proto,
    reason_from_proto,
    state_to_proto,
    timestamp,
)
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.store.notifications import Notifications
from scheduler_svc.store.upload_store import UploadStore
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.attach_attempt import Attachment, Reply
from scheduler_svc.usecases.claim_job import claim_job
from scheduler_svc.usecases.fail_attempt import fail_attempt
from scheduler_svc.usecases.issue_tokens import TokenIssuer
from scheduler_svc.usecases.register_worker import Registration, register_worker
from scheduler_svc.usecases.store_files import FileStorage, commit_checkpoint, complete_attempt, prepare_files


@dataclass(frozen=True, slots=True)
class AttemptParts:
    """What the rpcs of trainers work with."""

    attempts: AttemptStore
    uploads: UploadStore
    workers: WorkerStore
    files: AttemptFiles
    notifications: Notifications
    issuer: TokenIssuer
    join_secret: str
    public_keys: tuple[dict[str, str], ...]
    """As JSON Web Keys, the one that signs now first."""

    @property
    def storage(self) -> FileStorage:
        """What files are stored with."""
        return FileStorage(self.attempts, self.uploads, self.files)


class AttemptServicer(AttemptServiceServicer):
    """Serves the rpcs; a grant says which attempt a call is about."""

    def __init__(self, parts: AttemptParts) -> None:
        self._parts = parts

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(keys=[session_pb2.JsonWebKey(**key) for key in self._parts.public_keys])

    async def RegisterWorker(self, request: pb.RegisterWorkerRequest, context: Context) -> pb.RegisterWorkerResponse:
        registration = Registration(
            join_secret=request.join_secret,
            worker_id=worker_id_from_text(request.worker_id),
            name=check_printable("name", request.name),
            device=device_from_proto(request.device),
            version=check_printable("version", request.version),
            recipes=recipes_from_proto(request.recipes),
        )
        worker_id, issued = await register_worker(
            registration, self._parts.join_secret, self._parts.workers, self._parts.issuer
        )
        return pb.RegisterWorkerResponse(
            worker_id=worker_id, worker_token=issued.token, token_expire_time=timestamp(issued.expire_time)
        )

    async def ClaimJob(self, request: pb.ClaimJobRequest, context: Context) -> pb.ClaimJobResponse:
        worker_id = calling_worker()
        claim = await claim_job(worker_id, self._parts.attempts, self._parts.files, self._parts.issuer)
        if claim is None:
            return pb.ClaimJobResponse()
        message = pb.Claim(
            job=job_to_proto(claim.job),
            grant=claim.grant.token,
            grant_expire_time=timestamp(claim.grant.expire_time),
        )
        if claim.checkpoint is not None:
            message.checkpoint.CopyFrom(checkpoint_to_proto(claim.checkpoint, claim.checkpoint_urls))
        return pb.ClaimJobResponse(claim=message)

    async def Attach(
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context
    ) -> AsyncIterator[pb.AttachResponse]:
        attachment = Attachment(
            calling_attempt(),
            datetime.fromtimestamp(current_principal().claims["exp"], UTC),
            self._parts.attempts,
            self._parts.notifications,
            self._parts.issuer,
        )
        async for reply in attachment.run(reports_from_proto(request_iterator)):
            yield pb.AttachResponse(
                acknowledged_report=reply.acknowledged_report,
                order=_order(reply),
                grant=reply.grant,
            )

    async def PrepareFiles(self, request: pb.PrepareFilesRequest, context: Context) -> pb.PrepareFilesResponse:
        step = request.checkpoint_step if request.HasField("checkpoint_step") else None
        files = files_from_proto(calling_attempt(), request.files, step)
        prepared = await prepare_files(files, self._parts.storage)
        return pb.PrepareFilesResponse(files=[prepared_to_proto(each) for each in prepared])

    async def CommitCheckpoint(
        self, request: pb.CommitCheckpointRequest, context: Context
    ) -> pb.CommitCheckpointResponse:
        files = files_from_proto(calling_attempt(), request.checkpoint.files, request.checkpoint.step)
        eval_loss = request.checkpoint.eval_loss if request.checkpoint.HasField("eval_loss") else None
        await commit_checkpoint(files, eval_loss, self._parts.storage)
        return pb.CommitCheckpointResponse()

    async def CompleteAttempt(self, request: pb.CompleteAttemptRequest, context: Context) -> pb.CompleteAttemptResponse:
        files = files_from_proto(calling_attempt(), request.files)
        progress = progress_from_proto(request.progress) if request.HasField("progress") else None
        early_end = clean_text(request.early_end, MAX_MESSAGE_BYTES)
        state = await complete_attempt(files, progress, self._parts.storage, early_end)
        return pb.CompleteAttemptResponse(state=state_to_proto(state))

    async def FailAttempt(self, request: pb.FailAttemptRequest, context: Context) -> pb.FailAttemptResponse:
        message = clean_text(request.message, MAX_MESSAGE_BYTES)
        state = await fail_attempt(calling_attempt(), reason_from_proto(request.reason), message, self._parts.attempts)
        return pb.FailAttemptResponse(state=state_to_proto(state))


def _order(reply: Reply) -> pb.Order.ValueType:
    if reply.must_stop:
        return pb.ORDER_STOP
    return pb.ORDER_DRAIN if reply.must_drain else pb.ORDER_UNSPECIFIED
