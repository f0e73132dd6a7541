"""Servers that break off, answer 503 or send wrong bytes, as often as a test asks for."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc
from reeltune.catalog.v1 import (
    upload_batch_service_pb2,
    upload_batch_service_pb2_grpc,
    upload_pb2,
    upload_service_pb2,
    upload_service_pb2_grpc,
)
from reeltune.scheduler.v1 import (
    artifact_pb2,
    checkpoint_pb2,
    job_event_pb2,
    metric_series_pb2,
    preset_service_pb2_grpc,
    queue_status_pb2,
    quota_pb2,
    quota_service_pb2,
    quota_service_pb2_grpc,
    recipe_pb2,
    training_job_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
    worker_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs

from meshkit.ids import new_id
from meshkit.rpc.failure import Failure
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.status import status_from_failure
from meshkit.testing import Served
from scheduler_svc.rpc.preset_servicer import PresetServicer

PART_BYTES = 100_000
JOB_ID = "job_00000000000000000000000000"
WORKER_ID = "wrk_00000000000000000000000000"


@dataclass
class FailingMesh:
    """A catalog and a scheduler over a store of blobs; lists say how the next requests fail."""

    put_failures: list[int] = field(default_factory=list)
    """HTTP codes that the next PUTs answer instead of storing."""
    artifact_calls: int = 0
    get_failures: list[int | bytes] = field(default_factory=list)
    """HTTP codes, or wrong bytes, that the next GETs answer."""
    refused_paths: set[str] = field(default_factory=set)
    watch_breaks: list[int | grpc.StatusCode | Failure] = field(default_factory=list)
    """After how many events the next watches break off with UNAVAILABLE; or a status or failure at the start."""
    silent_watches: int = 0
    """So many of the next watches say nothing after the snapshot, as behind a dead connection."""
    watches: list[int] = field(default_factory=list)
    """The `after_sequence` of each watch."""
    events: list[job_event_pb2.JobEvent] = field(default_factory=list)
    queue: queue_status_pb2.QueueStatus | None = None
    """Where in the queue the job is."""
    job_reason: training_job_pb2.StateReason.ValueType = training_job_pb2.STATE_REASON_UNSPECIFIED
    checkpoints: list[checkpoint_pb2.CheckpointInfo] = field(default_factory=list)
    artifact_files: dict[str, bytes] = field(default_factory=dict)
    stream_is_cut: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    """What was PUT, by path of the URL."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What is in place, by path in the dataset."""
    puts: list[str] = field(default_factory=list)
    """The path of each PUT."""
    is_verifying: bool = False
    """Parts are to be put with headers, which tell the digest of a file of one part; one that is there already is not
    written again."""
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    """What happens right after each of the next files is announced."""
    is_forgetful: bool = False
    """All uploads end with a PUT that fails."""
    lost_uploads: list[str] = field(default_factory=list)
    """With what reasons the next uploads cannot be completed, as nothing of them is there any more."""
    late_batches: int = 0
    """So many of the next batches take too long to be completed."""
    offers: list[str] = field(default_factory=list)
    """The path of each file that was announced."""
    first_offers_end: bool = False
    """A file's first offer ends within a minute: who sends by it comes too late."""
    late_puts: int = 0
    """How many have."""
    lifetime_seconds: float = 900
    """How long all the other offers say that they live."""
    batches: list[int] = field(default_factory=list)
    """How many files each batch announced."""
    lost_puts: int = 0
    """So many of the next PUTs are stored, and answered as if they were not."""
    hold_after: int | None = None
    """When so many blobs are there, further PUTs wait until they are let go, and come to nothing."""
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    uploads: dict[str, upload_service_pb2.FileHeader] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    """The requests of owners who do something with a job."""
    lost_answers: int = 0
    """So many of the next of them are heard, and their answers lost."""
    served: Served = field(init=False)

    async def __aenter__(self) -> Self:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def registrations(self) -> list[ServicerRegistration]:
        return [
            ServicerRegistration(upload_service_pb2_grpc.add_UploadServiceServicer_to_server, Uploads(self)),
            ServicerRegistration(
                upload_batch_service_pb2_grpc.add_UploadBatchServiceServicer_to_server, UploadBatches(self)
            ),
            ServicerRegistration(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, Training(self)),
            ServicerRegistration(quota_service_pb2_grpc.add_QuotaServiceServicer_to_server, Quotas(self)),
            ServicerRegistration(preset_service_pb2_grpc.add_PresetServiceServicer_to_server, PresetServicer()),
            ServicerRegistration(worker_service_pb2_grpc.add_WorkerServiceServicer_to_server, Workers(self)),
        ]


class Uploads(upload_service_pb2_grpc.UploadServiceServicer):
    def __init__(self, mesh: FailingMesh) -> None:
        self._mesh = mesh

    async def CreateUpload(self, request: Any, context: Any) -> Any:
        header = request.file
        if header.path in self._mesh.refused_paths:
            message = f"{header.path} is not allowed"
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "FILE_NOT_ALLOWED", message)
        known = self._mesh.files.get(header.path)
        if known is not None and hashlib.sha256(known).hexdigest() == header.sha256:
            return upload_service_pb2.CreateUploadResponse(upload=upload_pb2.Upload(complete=True))
        upload_id = next((key for key, value in self._mesh.uploads.items() if value == header), new_id("upl"))
        self._mesh.uploads[upload_id] = header
        upload = upload_pb2.Upload(id=upload_id, path=header.path)
        is_ending = self._mesh.first_offers_end and header.path not in self._mesh.offers
        self._mesh.offers.append(header.path)
        upload.expire_time.seconds = int(time.time() + (30 if is_ending else self._mesh.lifetime_seconds))
        for number, offset in enumerate(range(0, max(header.size_bytes, 1), PART_BYTES), start=1):
            size = min(PART_BYTES, header.size_bytes - offset)
            url = f"{self._mesh.url}/{upload_id}/{number:04}{'?ended' * is_ending}"
            headers = {}
            if self._mesh.is_verifying and request.accepts_headers:
                headers["if-none-match"] = "*"
                if header.size_bytes <= PART_BYTES:
                    headers["x-amz-checksum-sha256"] = header.sha256
            arrived = len(self._mesh.blobs.get(f"/{upload_id}/{number:04}", b"")) == size > 0
            upload.parts.append(
                upload_pb2.UploadPart(
                    number=number, offset_bytes=offset, size_bytes=size, url=url, arrived=arrived, headers=headers
                )
            )
        if self._mesh.meanwhile:
            self._mesh.meanwhile.pop(0)()
        return upload_service_pb2.CreateUploadResponse(upload=upload)

    async def CompleteUpload(self, request: Any, context: Any) -> Any:
        if request.upload_id not in self._mesh.uploads:
            raise Failure(grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND", "there is no such upload")
        header = self._mesh.uploads.pop(request.upload_id)
        if self._mesh.lost_uploads:
            self._mesh.blobs.clear()
            raise Failure(grpc.StatusCode.FAILED_PRECONDITION, self._mesh.lost_uploads.pop(0), "parts are missing")
        prefix = f"/{request.upload_id}/"
        parts = sorted(path for path in self._mesh.blobs if path.startswith(prefix))
        content = b"".join(self._mesh.blobs[path] for path in parts)
        if hashlib.sha256(content).hexdigest() != header.sha256:
            raise Failure(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", f"{header.path} has other bytes")
        self._mesh.files[header.path] = content
        return upload_service_pb2.CompleteUploadResponse()

    async def ListFiles(self, request: Any, context: Any) -> Any:
        files = [upload_pb2.StoredFile(path=path) for path in sorted(self._mesh.files)]
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(files) else ""
        return upload_service_pb2.ListFilesResponse(files=files[start : start + 2], next_page_token=token)

    async def DeleteFile(self, request: Any, context: Any) -> Any:
        del self._mesh.files[request.path]
        self._mesh.deleted.append(request.path)
        return upload_service_pb2.DeleteFileResponse()


class UploadBatches(upload_batch_service_pb2_grpc.UploadBatchServiceServicer):
    def __init__(self, mesh: FailingMesh) -> None:
        self._mesh = mesh
        self._uploads = Uploads(mesh)

    async def BatchCreateUploads(self, request: Any, context: Any) -> Any:
        self._mesh.batches.append(len(request.requests))
        response = upload_batch_service_pb2.BatchCreateUploadsResponse()
        for one in request.requests:
            result = response.results.add(path=one.file.path)
            try:
                result.upload.CopyFrom((await self._uploads.CreateUpload(one, context)).upload)
            except Failure as failure:
                result.error.CopyFrom(status_from_failure(failure))
        return response

    async def BatchCompleteUploads(self, request: Any, context: Any) -> Any:
        response = upload_batch_service_pb2.BatchCompleteUploadsResponse()
        for one in request.requests:
            if self._mesh.late_batches:
                self._mesh.late_batches -= 1
                raise Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "this took too long")
            result = response.results.add(upload_id=one.upload_id)
            try:
                result.file.CopyFrom((await self._uploads.CompleteUpload(one, context)).file)
            except Failure as failure:
                result.error.CopyFrom(status_from_failure(failure))
        return response


class Training(training_service_pb2_grpc.TrainingServiceServicer):
    def __init__(self, mesh: FailingMesh) -> None:
        self._mesh = mesh

    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._mesh.watches.append(request.after_sequence)
        limit = self._mesh.watch_breaks.pop(0) if self._mesh.watch_breaks else None
        if isinstance(limit, grpc.StatusCode):
            raise Failure(limit, "JOB_NOT_FOUND" if limit is grpc.StatusCode.NOT_FOUND else "PASSING", "refused")
        if isinstance(limit, Failure):
            raise limit
        last = self._mesh.events[-1]
        state = last.state_change.to or training_job_pb2.JOB_STATE_RUNNING
        yield history.WatchTrainingJobResponse(
            sequence=request.after_sequence,
            snapshot=training_job_pb2.TrainingJob(id=JOB_ID, state=state, sequence=last.sequence),
        )
        if self._mesh.queue is not None:
            yield history.WatchTrainingJobResponse(sequence=request.after_sequence, queue=self._mesh.queue)
        if self._mesh.silent_watches:
            self._mesh.silent_watches -= 1
            await asyncio.Event().wait()
        for told, event in enumerate(event for event in self._mesh.events if event.sequence > request.after_sequence):
            if told == limit:
                raise Failure(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the service restarts")
            yield history.WatchTrainingJobResponse(sequence=event.sequence, heartbeat=history.Heartbeat())
            yield history.WatchTrainingJobResponse(sequence=event.sequence, event=event)

    async def GetTrainingJob(self, request: Any, context: Any) -> Any:
        change = self._mesh.events[-1].state_change
        job = training_job_pb2.TrainingJob(
            id=request.job_id,
            state=change.to,
            message=change.message,
            reason=self._mesh.job_reason,
            queue=self._mesh.queue,
        )
        return training_service_pb2.GetTrainingJobResponse(job=job)

    async def DeleteTrainingJob(self, request: Any, context: Any) -> Any:
        self._hear(request)
        self._mesh.deleted.append(request.job_id)
        return training_service_pb2.DeleteTrainingJobResponse()

    async def StopTrainingJob(self, request: Any, context: Any) -> Any:
        return training_service_pb2.StopTrainingJobResponse(job=self._hear(request))

    async def PauseTrainingJob(self, request: Any, context: Any) -> Any:
        return verbs.PauseTrainingJobResponse(job=self._hear(request, is_paused=True))

    async def ResumeTrainingJob(self, request: Any, context: Any) -> Any:
        return verbs.ResumeTrainingJobResponse(job=self._hear(request))

    async def RetryTrainingJob(self, request: Any, context: Any) -> Any:
        return verbs.RetryTrainingJobResponse(job=self._hear(request))

    async def UpdateTrainingJob(self, request: Any, context: Any) -> Any:
        job = self._hear(request)
        job.MergeFrom(request.job)
        return verbs.UpdateTrainingJobResponse(job=job)

    async def ListCheckpoints(self, request: Any, context: Any) -> Any:
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(self._mesh.checkpoints) else ""
        page = self._mesh.checkpoints[start : start + 2]
        return verbs.ListCheckpointsResponse(checkpoints=page, next_page_token=token)

    def _hear(self, request: Any, **fields: Any) -> training_job_pb2.TrainingJob:
        self._mesh.asked.append(request)
        if self._mesh.lost_answers:
            self._mesh.lost_answers -= 1
            raise Failure(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the service restarts")
        return training_job_pb2.TrainingJob(id=JOB_ID, state=training_job_pb2.JOB_STATE_QUEUED, **fields)

    async def ListMetrics(self, request: Any, context: Any) -> Any:
        if request.max_points:
            bucket = metric_series_pb2.MetricBucket(first_step=1, last_step=9, min=0.25, max=0.5, last=0.25, count=9)
            nothing = metric_series_pb2.MetricBucket(first_step=4, last_step=4, last=math.nan, count=1, nan_count=1)
            series = [
                metric_series_pb2.MetricSeries(name=name, buckets=[each])
                for name, each in (("eval_loss", nothing), ("loss", bucket))
            ]
            return history.ListMetricsResponse(series=series)
        return history.ListMetricsResponse(points=self._mesh.events)

    async def ListEvents(self, request: Any, context: Any) -> Any:
        return history.ListEventsResponse(events=self._mesh.events)

    async def GetArtifact(self, request: Any, context: Any) -> Any:
        self._mesh.artifact_calls += 1
        return history.GetArtifactResponse(artifact=self._artifact(with_urls=True))

    async def DownloadArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        artifact = self._artifact(with_urls=False)
        yield history.DownloadArtifactResponse(artifact=artifact)
        for file in artifact.files:
            yield history.DownloadArtifactResponse(file=file)
            content = self._mesh.artifact_files[file.path]
            for offset in range(0, len(content), PART_BYTES):
                yield history.DownloadArtifactResponse(chunk=content[offset : offset + PART_BYTES])
        if not self._mesh.stream_is_cut:
            yield history.DownloadArtifactResponse(end_digest=artifact.digest)

    def _artifact(self, *, with_urls: bool) -> artifact_pb2.Artifact:
        artifact = artifact_pb2.Artifact(job_id=JOB_ID, digest="0" * 64)
        for path, content in self._mesh.artifact_files.items():
            self._mesh.blobs[f"/{path}"] = content
            url = f"{self._mesh.url}/{path}" if with_urls else ""
            digest = hashlib.sha256(content).hexdigest()
            artifact.files.append(artifact_pb2.ArtifactFile(path=path, size_bytes=len(content), sha256=digest, url=url))
            artifact.size_bytes += len(content)
        return artifact


class Quotas(quota_service_pb2_grpc.QuotaServiceServicer):
    def __init__(self, mesh: FailingMesh) -> None:
        self._mesh = mesh

    async def GetMyQuota(self, request: Any, context: Any) -> Any:
        usage = quota_pb2.QuotaUsage(running_jobs=1, queued_jobs=4, device_hours=2.5, storage_bytes=3 * 10**9)
        quota = quota_pb2.Quota(user_id="usr_1", running_jobs=2, is_default=True, etag="r0", usage=usage)
        return quota_service_pb2.GetMyQuotaResponse(quota=quota)

    async def ListQuotas(self, request: Any, context: Any) -> Any:
        quotas = [quota_pb2.Quota(user_id="default", storage_bytes=2 * 10**11)]
        return quota_service_pb2.ListQuotasResponse(quotas=quotas)

    async def UpdateQuota(self, request: Any, context: Any) -> Any:
        self._mesh.asked.append(request)
        return quota_service_pb2.UpdateQuotaResponse(quota=request.quota)

    async def DeleteQuota(self, request: Any, context: Any) -> Any:
        self._mesh.asked.append(request)
        quota = quota_pb2.Quota(user_id=request.user_id, running_jobs=4, is_default=True)
        return quota_service_pb2.DeleteQuotaResponse(quota=quota)


class Workers(worker_service_pb2_grpc.WorkerServiceServicer):
    def __init__(self, mesh: FailingMesh) -> None:
        self._mesh = mesh

    async def ListWorkers(self, request: Any, context: Any) -> Any:
        return worker_service_pb2.ListWorkersResponse(workers=[_worker(worker_pb2.WORKER_STATE_BUSY)])

    async def DrainWorker(self, request: Any, context: Any) -> Any:
        self._mesh.asked.append(request)
        return worker_service_pb2.DrainWorkerResponse(worker=_worker(worker_pb2.WORKER_STATE_DRAINING))

    async def ResumeWorker(self, request: Any, context: Any) -> Any:
        self._mesh.asked.append(request)
        return worker_service_pb2.ResumeWorkerResponse(worker=_worker(worker_pb2.WORKER_STATE_IDLE))


def _worker(state: worker_pb2.WorkerState.ValueType) -> worker_pb2.Worker:
    device = worker_pb2.Device(device_class=worker_pb2.DEVICE_CLASS_CUDA, memory_bytes=24 * 10**9, device_count=2)
    return worker_pb2.Worker(id=WORKER_ID, name="rack-1", state=state, device=device, recipes=[recipe_pb2.RECIPE_QLORA])


def _handler(mesh: FailingMesh) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if mesh.put_failures:
                if mesh.is_forgetful:
                    mesh.uploads.clear()
                self._answer(mesh.put_failures.pop(0), b"")
                return
            if self.path.endswith("?ended"):
                mesh.late_puts += 1
                self._answer(403, b"")
                return
            mesh.puts.append(self.path)
            if mesh.hold_after is not None and len(mesh.blobs) >= mesh.hold_after:
                mesh.held.set()
                mesh.let_go.wait(60)
                self.close_connection = True
                return
            if mesh.is_verifying and self.headers["If-None-Match"] != "*":
                self._answer(403, b"")
                return
            digest = self.headers["x-amz-checksum-sha256"] if mesh.is_verifying else None
            if digest is not None and digest != hashlib.sha256(body).hexdigest():
                self._answer(400, b"")
                return
            is_there = mesh.is_verifying and self.path in mesh.blobs
            mesh.blobs[self.path] = body
            if mesh.lost_puts > 0:
                mesh.lost_puts -= 1
                self._answer(503, b"")
                return
            self._answer(412 if is_there else 200, b"")

        def do_GET(self) -> None:
            failure = mesh.get_failures.pop(0) if mesh.get_failures else None
            if isinstance(failure, int):
                self._answer(failure, b"")
            else:
                self._answer(200, mesh.blobs[self.path] if failure is None else failure)

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
