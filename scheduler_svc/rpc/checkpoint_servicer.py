"""CheckpointService: what trainers ask about the checkpoints of their job."""

from __future__ import annotations

from reeltune.scheduler.v1 import checkpoint_service_pb2 as pb
from reeltune.scheduler.v1.checkpoint_service_pb2_grpc import CheckpointServiceServicer

from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.checkpoints import CheckpointName
from scheduler_svc.rpc.attempt_convert import checkpoint_to_proto
from scheduler_svc.rpc.caller import Context, calling_attempt
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.usecases.claim_job import find_checkpoint


class CheckpointServicer(CheckpointServiceServicer):
    """Serves the rpc; a grant says which attempt a call is about."""

    def __init__(self, attempts: AttemptStore, files: AttemptFiles) -> None:
        self._attempts = attempts
        self._files = files

    async def FindCheckpoint(self, request: pb.FindCheckpointRequest, context: Context) -> pb.FindCheckpointResponse:
        older_than = None
        if request.HasField("older_than"):
            older_than = CheckpointName(request.older_than.attempt, request.older_than.step)
        found = await find_checkpoint(calling_attempt(), older_than, self._attempts, self._files)
        if found is None:
            return pb.FindCheckpointResponse()
        return pb.FindCheckpointResponse(checkpoint=checkpoint_to_proto(found, self._files.download_urls(found)))
