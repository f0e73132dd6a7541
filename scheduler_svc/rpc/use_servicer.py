"""UseService: what datasets and models are used for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from reeltune.scheduler.v1 import training_job_pb2
from reeltune.scheduler.v1 import use_service_pb2 as pb
from reeltune.scheduler.v1.use_service_pb2_grpc import UseServiceServicer

from meshkit.auth.principal import current_principal
from meshkit.rpc.paging import PageTokens, page_size
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.job import Job
from scheduler_svc.rpc.caller import Context, calling_user
from scheduler_svc.rpc.convert import timestamp
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.usecases.list_uses import list_uses

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UseServicer(UseServiceServicer):
    """Serves the rpc."""

    def __init__(self, jobs: JobStore, catalog: Catalog, page_tokens: PageTokens) -> None:
        self._jobs = jobs
        self._catalog = catalog
        self._page_tokens = page_tokens

    async def ListUses(self, request: pb.ListUsesRequest, context: Context) -> pb.ListUsesResponse:
        user, token = calling_user(), current_principal().token
        size = page_size(request.page_size, default=50, maximum=1000)
        binding = {"caller": user, "filter": f"uses {request.entry_id} {request.live_only}"}
        position = self._page_tokens.decode(request.page_token, **binding)
        after = None if position is None else (_EPOCH + timedelta(microseconds=int(position[0])), str(position[1]))
        uses = await list_uses(
            request.entry_id, request.live_only, user, token, after, size + 1, self._jobs, self._catalog
        )
        response = pb.ListUsesResponse(
            uses=[_use_to_proto(job) for job in uses.jobs[:size]], live_jobs_of_others=uses.live_jobs_of_others
        )
        if len(uses.jobs) > size:
            last = uses.jobs[size - 1]
            microseconds = (last.create_time - _EPOCH) // timedelta(microseconds=1)
            response.next_page_token = self._page_tokens.encode((microseconds, last.id), **binding)
        return response


def _use_to_proto(job: Job) -> pb.Use:
    return pb.Use(
        job_id=job.id,
        name=job.name,
        state=training_job_pb2.JobState.Value(f"JOB_STATE_{job.state}"),
        create_time=timestamp(job.create_time),
    )
