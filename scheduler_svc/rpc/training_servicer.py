"""TrainingService: jobs as their owners see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history_pb
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs_pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceServicer

from meshkit.auth.principal import current_principal
from meshkit.rpc.paging import PageTokens, page_size
from scheduler_svc.clients.attempt_files import URL_TTL, AttemptFiles
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.events import LogLevel
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.metric_buckets import MOST_ROWS
from scheduler_svc.rpc.caller import Context, calling_user
from scheduler_svc.rpc.convert import (
    artifact_to_proto,
    check_printable,
    device_class_from_proto,
    file_to_proto,
    filter_from_text,
    job_to_proto,
    series_to_proto,
)
from scheduler_svc.rpc.history_page import FetchEvents, read_page
from scheduler_svc.rpc.parameters_convert import asked_from_proto
from scheduler_svc.rpc.request_keys import request_key
from scheduler_svc.rpc.verbs_convert import checkpoint_to_proto, update_from_proto
from scheduler_svc.store.event_store import EventStore
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.metric_store import MetricStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.check_fit import FitCheck
from scheduler_svc.usecases.job_feed import JobFeeds
from scheduler_svc.usecases.submit_job import JobRequest, submit_job
from scheduler_svc.usecases.view_queue import QueueView
from scheduler_svc.usecases.watch_job import watch_job

_MAX_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TrainingParts:
    """What the rpcs of users work with."""

    jobs: JobStore
    requests: RequestStore
    events: EventStore
    metrics: MetricStore
    workers: WorkerStore
    queue: QueueView
    catalog: Catalog
    fit: FitCheck
    files: AttemptFiles
    feeds: JobFeeds[history_pb.WatchTrainingJobResponse]
    page_tokens: PageTokens
    stop_grace: timedelta
    watch_heartbeat_seconds: float


class TrainingServicer(TrainingServiceServicer):
    """Serves the rpcs; every query is bound to the caller's own jobs."""

    def __init__(self, parts: TrainingParts) -> None:
        self._parts = parts

    async def CreateTrainingJob(
        self, request: pb.CreateTrainingJobRequest, context: Context
    ) -> pb.CreateTrainingJobResponse:
        principal = current_principal()
        asked = JobRequest(
            owner_id=UserId(principal.subject),
            token=principal.token,
            name=check_printable("name", request.name),
            model_id=request.model_id,
            dataset_id=request.dataset_id,
            parameters=asked_from_proto(request.parameters),
            device_class=device_class_from_proto(request.device_class),
            device_count=request.device_count or 1,
            device_memory_bytes=request.device_memory_bytes,
            priority=request.priority,
            key=request_key(request),
        )
        job = await submit_job(
            asked,
            self._parts.jobs,
            self._parts.requests,
            self._parts.workers,
            self._parts.queue,
            self._parts.catalog,
            self._parts.fit,
        )
        return pb.CreateTrainingJobResponse(job=job_to_proto(job))

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.GetTrainingJobResponse:
        job = await self._parts.jobs.get(JobId(request.job_id), calling_user())
        return pb.GetTrainingJobResponse(job=job_to_proto(job, await self._parts.queue.status(job)))

    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        size = page_size(request.page_size, default=50, maximum=_MAX_PAGE)
        condition = filter_from_text(request.filter)
        binding = {"caller": calling_user(), "filter": f"jobs {request.filter}"}
        position = self._parts.page_tokens.decode(request.page_token, **binding)
        after = None if position is None else (_EPOCH + timedelta(microseconds=int(position[0])), str(position[1]))
        jobs = list(await self._parts.jobs.list_page(calling_user(), condition, after, size + 1))
        queue = await self._parts.queue.statuses(jobs[:size])
        response = pb.ListTrainingJobsResponse(jobs=[job_to_proto(job, queue.get(job.id)) for job in jobs[:size]])
        if len(jobs) > size:
            last = jobs[size - 1]
            microseconds = (last.create_time - _EPOCH) // timedelta(microseconds=1)
            response.next_page_token = self._parts.page_tokens.encode((microseconds, last.id), **binding)
        return response

    async def UpdateTrainingJob(
        self, request: verbs_pb.UpdateTrainingJobRequest, context: Context
    ) -> verbs_pb.UpdateTrainingJobResponse:
        job_id, update = update_from_proto(request)
        job = await self._parts.jobs.update(job_id, calling_user(), update, request_key(request))
        return verbs_pb.UpdateTrainingJobResponse(job=job_to_proto(job))

    async def StopTrainingJob(self, request: pb.StopTrainingJobRequest, context: Context) -> pb.StopTrainingJobResponse:
        job = await self._parts.jobs.stop(
            JobId(request.job_id), calling_user(), self._parts.stop_grace, request_key(request)
        )
        return pb.StopTrainingJobResponse(job=job_to_proto(job))

    async def PauseTrainingJob(
        self, request: verbs_pb.PauseTrainingJobRequest, context: Context
    ) -> verbs_pb.PauseTrainingJobResponse:
        job = await self._parts.jobs.pause(JobId(request.job_id), calling_user(), request_key(request))
        return verbs_pb.PauseTrainingJobResponse(job=job_to_proto(job))

    async def ResumeTrainingJob(
        self, request: verbs_pb.ResumeTrainingJobRequest, context: Context
    ) -> verbs_pb.ResumeTrainingJobResponse:
        job = await self._parts.jobs.resume(JobId(request.job_id), calling_user(), request_key(request))
        return verbs_pb.ResumeTrainingJobResponse(job=job_to_proto(job))

    async def RetryTrainingJob(
        self, request: verbs_pb.RetryTrainingJobRequest, context: Context
    ) -> verbs_pb.RetryTrainingJobResponse:
        job = await self._parts.jobs.retry(
            JobId(request.job_id), calling_user(), from_scratch=request.from_scratch, key=request_key(request)
        )
        return verbs_pb.RetryTrainingJobResponse(job=job_to_proto(job))

    async def DeleteTrainingJob(
        self, request: pb.DeleteTrainingJobRequest, context: Context
    ) -> pb.DeleteTrainingJobResponse:
        await self._parts.jobs.delete(JobId(request.job_id), calling_user(), request_key(request))
        return pb.DeleteTrainingJobResponse()

    async def WatchTrainingJob(
        self, request: history_pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[history_pb.WatchTrainingJobResponse]:
        messages = watch_job(
            JobId(request.job_id),
            calling_user(),
            request.after_sequence,
            self._parts.feeds,
            self._parts.queue,
            self._parts.watch_heartbeat_seconds,
        )
        async for message in messages:
            yield message

    async def ListEvents(
        self, request: history_pb.ListEventsRequest, context: Context
    ) -> history_pb.ListEventsResponse:
        job_id = JobId(request.job_id)
        events, token = await self._page(
            request, "events", lambda after, limit: self._parts.events.list_events(job_id, after, limit)
        )
        return history_pb.ListEventsResponse(events=events, next_page_token=token)

    async def ListLogs(self, request: history_pb.ListLogsRequest, context: Context) -> history_pb.ListLogsResponse:
        job_id, level = JobId(request.job_id), LogLevel(request.min_level or LogLevel.DEBUG)
        lines, token = await self._page(
            request, f"logs {level}", lambda after, limit: self._parts.events.list_logs(job_id, after, limit, level)
        )
        return history_pb.ListLogsResponse(lines=lines, next_page_token=token)

    async def ListMetrics(
        self, request: history_pb.ListMetricsRequest, context: Context
    ) -> history_pb.ListMetricsResponse:
        job_id = JobId(request.job_id)
        if request.max_points:
            await self._parts.jobs.get(job_id, calling_user())  # the caller's own, or not found
            names = frozenset(request.names) or None
            series = await self._parts.metrics.summarize(job_id, min(request.max_points, MOST_ROWS), names)
            return history_pb.ListMetricsResponse(series=[series_to_proto(*each) for each in series.items()])
        points, token = await self._page(
            request, "metrics", lambda after, limit: self._parts.events.list_metrics(job_id, after, limit)
        )
        return history_pb.ListMetricsResponse(points=points, next_page_token=token)

    async def ListCheckpoints(
        self, request: verbs_pb.ListCheckpointsRequest, context: Context
    ) -> verbs_pb.ListCheckpointsResponse:
        size = page_size(request.page_size, default=100, maximum=_MAX_PAGE)
        binding = {"caller": calling_user(), "filter": f"checkpoints {request.job_id}"}
        position = self._parts.page_tokens.decode(request.page_token, **binding)
        after = None if position is None else (int(position[0]), int(position[1]))
        found = list(await self._parts.jobs.list_checkpoints(JobId(request.job_id), calling_user(), after, size + 1))
        response = verbs_pb.ListCheckpointsResponse(checkpoints=[checkpoint_to_proto(each) for each in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = self._parts.page_tokens.encode((last.attempt, last.step), **binding)
        return response

    async def GetArtifact(
        self, request: history_pb.GetArtifactRequest, context: Context
    ) -> history_pb.GetArtifactResponse:
        artifact = await self._parts.jobs.get_artifact(JobId(request.job_id), calling_user())
        expire_time = datetime.now(UTC) + URL_TTL
        urls = self._parts.files.download_urls(artifact.files)
        return history_pb.GetArtifactResponse(artifact=artifact_to_proto(artifact, urls, expire_time))

    async def DownloadArtifact(
        self, request: history_pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[history_pb.DownloadArtifactResponse]:
        artifact = await self._parts.jobs.get_artifact(JobId(request.job_id), calling_user())
        yield history_pb.DownloadArtifactResponse(artifact=artifact_to_proto(artifact))
        for file in artifact.files.files:
            yield history_pb.DownloadArtifactResponse(file=file_to_proto(file))
            async for chunk in self._parts.files.read(artifact.files, file):
                yield history_pb.DownloadArtifactResponse(chunk=chunk)
        yield history_pb.DownloadArtifactResponse(end_digest=artifact.files.digest)

    async def _page(
        self,
        request: history_pb.ListEventsRequest | history_pb.ListLogsRequest | history_pb.ListMetricsRequest,
        kind: str,
        fetch: FetchEvents,
    ) -> tuple[Sequence[job_event_pb2.JobEvent], str]:
        """Returns a page of a job's history, cut where it would get too large, and the token of the next one."""
        size = page_size(request.page_size, default=100, maximum=_MAX_PAGE)
        binding = {"caller": calling_user(), "filter": f"{kind} {request.job_id}"}
        position = self._parts.page_tokens.decode(request.page_token, **binding)
        await self._parts.jobs.get(JobId(request.job_id), calling_user())  # the caller's own, or not found
        messages, has_more = await read_page(fetch, int(position[0]) if position else 0, size)
        if not has_more:
            return messages, ""
        return messages, self._parts.page_tokens.encode((messages[-1].sequence,), **binding)
