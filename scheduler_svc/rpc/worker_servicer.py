"""WorkerService: shows the trainers, and takes them out of service."""

from __future__ import annotations

from reeltune.scheduler.v1 import worker_service_pb2 as pb
from reeltune.scheduler.v1.worker_service_pb2_grpc import WorkerServiceServicer

from meshkit.auth.principal import current_principal
from meshkit.rpc.paging import PageTokens, page_size
from scheduler_svc.domain.ids import WorkerId
from scheduler_svc.rpc.caller import Context, calling_user
from scheduler_svc.rpc.convert import worker_to_proto
from scheduler_svc.rpc.request_keys import request_key
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.drain_worker import drain_worker, resume_worker

_LIST = "workers"


class WorkerServicer(WorkerServiceServicer):
    """Serves the rpcs."""

    def __init__(self, workers: WorkerStore, page_tokens: PageTokens) -> None:
        self._workers = workers
        self._page_tokens = page_tokens

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        principal = current_principal()
        size = page_size(request.page_size, default=50, maximum=1000)
        position = self._page_tokens.decode(request.page_token, caller=principal.subject, filter=_LIST)
        after = None if position is None else (str(position[0]), str(position[1]))
        workers = list(await self._workers.list_page(after, size + 1))
        response = pb.ListWorkersResponse(
            workers=[worker_to_proto(worker, with_jobs=principal.is_admin) for worker in workers[:size]]
        )
        if len(workers) > size:
            last = workers[size - 1]
            response.next_page_token = self._page_tokens.encode(
                (last.name, last.id), caller=principal.subject, filter=_LIST
            )
        return response

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Context) -> pb.GetWorkerResponse:
        worker = await self._workers.get(WorkerId(request.worker_id))
        return pb.GetWorkerResponse(worker=worker_to_proto(worker, with_jobs=current_principal().is_admin))

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.DrainWorkerResponse:
        worker = await drain_worker(WorkerId(request.worker_id), calling_user(), request_key(request), self._workers)
        return pb.DrainWorkerResponse(worker=worker_to_proto(worker, with_jobs=True))

    async def ResumeWorker(self, request: pb.ResumeWorkerRequest, context: Context) -> pb.ResumeWorkerResponse:
        worker = await resume_worker(WorkerId(request.worker_id), calling_user(), request_key(request), self._workers)
        return pb.ResumeWorkerResponse(worker=worker_to_proto(worker, with_jobs=True))
