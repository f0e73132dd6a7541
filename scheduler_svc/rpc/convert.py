"""Domain objects, from and to the contract."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from reeltune.scheduler.v1 import (
    artifact_pb2,
    job_event_pb2,
    metric_series_pb2,
    queue_status_pb2,
    recipe_pb2,
    training_history_pb2,
    training_job_pb2,
    worker_pb2,
)

from meshkit.rpc.filtering import Choice, Comparison, FieldKind, Identifier, Operator, Text, parse_filter
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.events import (
    CheckpointSaved,
    JobEvent,
    LogLine,
    MetricPoint,
    StateChange,
    WatchMessage,
)
from scheduler_svc.domain.files import Artifact, FileSet, StoredFile
from scheduler_svc.domain.job import DeviceClass, Job, JobFilter, JobState, Progress, Recipe, StateReason
from scheduler_svc.domain.metric_buckets import Summary
from scheduler_svc.domain.predictions import Predictions
from scheduler_svc.domain.queue_view import QueueStatus
from scheduler_svc.domain.worker import Device, Worker
from scheduler_svc.rpc.parameters_convert import parameters_to_proto, post_training_to_proto
from scheduler_svc.rpc.predictions_convert import predictions_to_proto

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FILTER_FIELDS: dict[str, FieldKind] = {
    "name": Text(),
    "state": Choice.of(JobState),
    "model_id": Identifier(),
    "dataset_id": Identifier(),
    "source_job_id": Identifier(),
}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Returns a moment as the contract's timestamp; None stays absent."""
    if moment is None:
        return None
    since = moment - _EPOCH  # several times as fast as Timestamp.FromDatetime
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def job_to_proto(job: Job, queue: QueueStatus | None = None) -> training_job_pb2.TrainingJob:
    """Returns a job as its owner sees it, with its place in the queue if that is asked for and known."""
    return training_job_pb2.TrainingJob(
        id=job.id,
        name=job.name,
        owner_id=job.owner_id,
        model_id=job.model_id,
        dataset_id=job.dataset_id,
        dataset_version=job.dataset_version,
        parameters=parameters_to_proto(job.parameters),
        device_class=device_class_to_proto(job.needs.device_class),
        state=state_to_proto(job.state),
        reason=reason_to_proto(job.reason),
        message=job.message,
        progress=progress_to_proto(job.progress),
        attempt=job.attempt,
        worker_id=job.worker_id or "",
        sequence=job.sequence,
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        update_time=timestamp(job.update_time),
        has_artifact=job.has_artifact,
        priority=job.priority,
        device_count=job.needs.device_count,
        device_memory_bytes=job.needs.device_memory_bytes,
        is_paused=job.is_paused,
        recipe=recipe_to_proto(job.needs.recipe),
        etag=str(job.revision),
        source_job_id=job.source_job_id or "",
        post_training=None if job.source_job_id is None else post_training_to_proto(job.parameters),
        queue=None if queue is None else queue_to_proto(queue),
    )


def queue_to_proto(status: QueueStatus) -> queue_status_pb2.QueueStatus:
    """Returns where in the queue a job is."""
    return queue_status_pb2.QueueStatus(
        position=status.position,
        estimated_start_time=timestamp(status.estimated_start_time),
        reason=queue_status_pb2.WaitReason.Value(f"WAIT_REASON_{status.reason}"),
        message=status.message,
    )


@functools.cache
def recipe_to_proto(recipe: Recipe) -> recipe_pb2.Recipe.ValueType:
    """Returns the contract's recipe."""
    return recipe_pb2.Recipe.Value(f"RECIPE_{recipe}")


@functools.cache
def state_to_proto(state: JobState | None) -> training_job_pb2.JobState.ValueType:
    """Returns the contract's state; unspecified for none."""
    if state is None:
        return training_job_pb2.JOB_STATE_UNSPECIFIED
    return training_job_pb2.JobState.Value(f"JOB_STATE_{state}")


@functools.cache
def reason_to_proto(reason: StateReason) -> training_job_pb2.StateReason.ValueType:
    """Returns the contract's reason."""
    return training_job_pb2.StateReason.Value(f"STATE_REASON_{reason}")


def reason_from_proto(reason: training_job_pb2.StateReason.ValueType) -> StateReason:
    """Returns the reason that the contract's stands for."""
    return StateReason(training_job_pb2.StateReason.Name(reason).removeprefix("STATE_REASON_"))


@functools.cache
def device_class_to_proto(device_class: DeviceClass) -> worker_pb2.DeviceClass.ValueType:
    """Returns the contract's device class; unspecified for any."""
    if device_class is DeviceClass.ANY:
        return worker_pb2.DEVICE_CLASS_UNSPECIFIED
    return worker_pb2.DeviceClass.Value(f"DEVICE_CLASS_{device_class}")


def device_class_from_proto(device_class: worker_pb2.DeviceClass.ValueType) -> DeviceClass:
    """Returns the device class that the contract's stands for."""
    if device_class == worker_pb2.DEVICE_CLASS_UNSPECIFIED:
        return DeviceClass.ANY
    return DeviceClass(worker_pb2.DeviceClass.Name(device_class).removeprefix("DEVICE_CLASS_"))


@functools.lru_cache(maxsize=64)
def progress_to_proto(progress: Progress) -> training_job_pb2.JobProgress:
    """Returns the progress of a job, to be put into another message and not to be changed."""
    return training_job_pb2.JobProgress(
        phase=progress.phase,
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        fraction=progress.fraction,
        loss=progress.loss,
    )


def event_to_proto(event: JobEvent) -> job_event_pb2.JobEvent:
    """Returns an event of a job's history."""
    message = job_event_pb2.JobEvent(
        sequence=event.sequence, create_time=timestamp(event.create_time), attempt=event.attempt
    )
    match event.body:
        case StateChange(source, target, reason, text):
            change = job_event_pb2.StateChange(to=state_to_proto(target), reason=reason_to_proto(reason), message=text)
            setattr(change, "from", state_to_proto(source))  # a keyword in Python
            message.state_change.CopyFrom(change)
        case Progress() as progress:
            message.progress.CopyFrom(progress_to_proto(progress))
        case MetricPoint(step, values):
            message.metrics.CopyFrom(job_event_pb2.MetricPoint(step=step, values=values))
        case LogLine(level, text):
            message.log.CopyFrom(job_event_pb2.LogLine(level=job_event_pb2.LogLevel.ValueType(level), text=text))
        case CheckpointSaved(step, size_bytes):
            message.checkpoint.CopyFrom(job_event_pb2.CheckpointSaved(step=step, size_bytes=size_bytes))
        case Predictions() as predictions:
            message.predictions.CopyFrom(predictions_to_proto(predictions))
    return message


def series_to_proto(name: str, buckets: Iterable[Summary]) -> metric_series_pb2.MetricSeries:
    """Returns one metric in buckets."""
    return metric_series_pb2.MetricSeries(
        name=name,
        buckets=[
            metric_series_pb2.MetricBucket(
                first_step=bucket.first_step,
                last_step=bucket.last_step,
                min=bucket.least,
                max=bucket.greatest,
                last=bucket.last,
                count=bucket.count,
                nan_count=bucket.nan_count,
            )
            for bucket in buckets
        ],
    )


def watch_message_to_proto(message: WatchMessage) -> training_history_pb2.WatchTrainingJobResponse:
    """Returns one message of a watch."""
    response = training_history_pb2.WatchTrainingJobResponse(sequence=message.sequence)
    match message.update:
        case Job() as job:
            response.snapshot.CopyFrom(job_to_proto(job, message.queue))
        case JobEvent() as event:
            response.event.CopyFrom(event_to_proto(event))
        case QueueStatus() as status:
            response.queue.CopyFrom(queue_to_proto(status))
        case None:
            response.heartbeat.send_time.GetCurrentTime()
    return response


def files_to_proto(files: FileSet, urls: dict[str, str] | None = None) -> list[artifact_pb2.ArtifactFile]:
    """Returns files with the URLs given for their paths."""
    return [file_to_proto(file, (urls or {}).get(file.path, "")) for file in files.files]


def file_to_proto(file: StoredFile, url: str = "") -> artifact_pb2.ArtifactFile:
    """Returns a file."""
    return artifact_pb2.ArtifactFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, url=url)


def artifact_to_proto(
    artifact: Artifact, urls: dict[str, str] | None = None, url_expire_time: datetime | None = None
) -> artifact_pb2.Artifact:
    """Returns what a job made."""
    return artifact_pb2.Artifact(
        job_id=artifact.files.key.job_id,
        attempt=artifact.files.key.attempt,
        files=files_to_proto(artifact.files, urls),
        size_bytes=artifact.files.size_bytes,
        digest=artifact.files.digest,
        create_time=timestamp(artifact.create_time),
        url_expire_time=timestamp(url_expire_time),
        dataset_id=artifact.dataset_id,
        dataset_version=artifact.dataset_version,
    )


def worker_to_proto(worker: Worker, *, with_jobs: bool) -> worker_pb2.Worker:
    """Returns a worker; whose jobs it trains is not everybody's business."""
    return worker_pb2.Worker(
        id=worker.id,
        name=worker.name,
        device=_device_to_proto(worker.device),
        state=worker_pb2.WorkerState.Value(f"WORKER_STATE_{worker.state}"),
        job_ids=worker.job_ids if with_jobs else (),
        version=worker.version,
        create_time=timestamp(worker.create_time),
        heartbeat_time=timestamp(worker.heartbeat_time),
        recipes=[recipe_to_proto(recipe) for recipe in worker.recipes],
        drain_time=timestamp(worker.drain_time),
    )


def filter_from_text(text: str) -> JobFilter:
    """Returns the condition of a `filter`. Raises FilterError."""
    comparisons = parse_filter(text, _FILTER_FIELDS)
    states = _states(comparisons)
    wanted = names, models, datasets, sources = tuple(
        _values(comparisons, field, Operator.EQUALS) for field in ("name", "model_id", "dataset_id", "source_job_id")
    )
    return JobFilter(
        name_parts=_values(comparisons, "name", Operator.HAS),
        states=None if len(states) == len(JobState) else states,
        name=next(iter(names), None),
        name_not=_values(comparisons, "name", Operator.DIFFERS),
        model_id=next(iter(models), None),
        model_id_not=_values(comparisons, "model_id", Operator.DIFFERS),
        dataset_id=next(iter(datasets), None),
        dataset_id_not=_values(comparisons, "dataset_id", Operator.DIFFERS),
        source_job_id=next(iter(sources), None),
        source_job_id_not=_values(comparisons, "source_job_id", Operator.DIFFERS),
        is_empty=not states or any(len(set(values)) > 1 for values in wanted),
    )


def check_printable(field: str, text: str) -> str:
    """Returns a name that is fit to be shown. Raises InvalidField for one with control characters."""
    if not text.isprintable():
        raise InvalidField(field, "must not hold control characters")
    return text


def _states(comparisons: tuple[Comparison, ...]) -> frozenset[JobState]:
    states = set(JobState)
    for comparison in comparisons:
        if comparison.field == "state":
            one = {JobState(str(comparison.value))}
            states = states & one if comparison.operator is Operator.EQUALS else states - one
    return frozenset(states)


def _values(comparisons: tuple[Comparison, ...], field: str, operator: Operator) -> tuple[str, ...]:
    return tuple(str(c.value) for c in comparisons if c.field == field and c.operator is operator)


def _device_to_proto(device: Device) -> worker_pb2.Device:
    return worker_pb2.Device(
        device_class=device_class_to_proto(device.device_class),
        name=device.name,
        memory_bytes=device.memory_bytes,
        can_train_4bit=device.can_train_4bit,
        four_bit_problem=device.four_bit_problem,
        decoder=device.decoder,
        versions=device.versions,
        device_count=device.device_count,
        driver_version=device.driver_version,
        compute_types=device.compute_types,
        matmul_flops=device.matmul_flops,
        decode_pixels_per_second=device.decode_pixels_per_second,
        profile=device.profile,
    )
