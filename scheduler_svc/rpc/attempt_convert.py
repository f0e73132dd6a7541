"""What trainers say, from the contract; whatever text they send, the database can hold it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable

from reeltune.scheduler.v1 import (
    artifact_pb2,
    attempt_service_pb2,
    job_event_pb2,
    recipe_pb2,
    training_job_pb2,
    worker_pb2,
)

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.events import (
    MAX_LOG_BYTES,
    MAX_METRIC_NAME,
    MAX_METRICS,
    LogLevel,
    LogLine,
    MetricPoint,
    Report,
    ReportBody,
    Started,
)
from scheduler_svc.domain.files import FileSet, StoredFile
from scheduler_svc.domain.ids import AttemptKey, WorkerId
from scheduler_svc.domain.job import DeviceClass, Progress, Recipe, clean_text
from scheduler_svc.domain.worker import Device
from scheduler_svc.rpc.convert import device_class_from_proto, file_to_proto, files_to_proto
from scheduler_svc.rpc.predictions_convert import predictions_from_proto
from scheduler_svc.usecases.store_files import PreparedFile

_MAX_TEXT_BYTES = 400
_MAX_TYPES = 8
_MAX_VERSIONS = 50
MAX_DEVICES = 64


async def reports_from_proto(
    requests: AsyncIterator[attempt_service_pb2.AttachRequest],
) -> AsyncIterator[Report | None]:
    """Yields the reports of a stream; None for a heartbeat. Raises InvalidField for a report without a number."""
    async for request in requests:
        body = _report_body(request)
        if body is None:
            yield None
        elif request.report == 0:
            raise InvalidField("report", "must count the attempt's reports from 1; 0 is for heartbeats")
        else:
            yield Report(request.report, body)


def progress_from_proto(message: training_job_pb2.JobProgress) -> Progress:
    """Returns the progress that a trainer reports; figures out of range are brought into it."""
    return Progress(
        phase=clean_text(message.phase, _MAX_TEXT_BYTES),
        step=max(message.step, 0),
        total_steps=max(message.total_steps, 0),
        epoch=_within(message.epoch, 1e9),
        fraction=_within(message.fraction, 1),
        loss=message.loss if message.HasField("loss") else None,
    )


def files_from_proto(
    key: AttemptKey, files: Iterable[artifact_pb2.ArtifactFile], checkpoint_step: int | None = None
) -> FileSet:
    """Returns the files of an attempt's artifact, or of its checkpoint at a step."""
    stored = tuple(StoredFile(file.path, file.size_bytes, file.sha256.lower()) for file in files)
    return FileSet(key, stored, checkpoint_step)


def prepared_to_proto(prepared: PreparedFile) -> artifact_pb2.ArtifactFile:
    """Returns a file with the URLs to PUT it to."""
    message = file_to_proto(prepared.file, prepared.url)
    message.parts.extend(
        artifact_pb2.FilePart(number=part.number, offset_bytes=part.offset_bytes, size_bytes=part.size_bytes, url=url)
        for part, url in prepared.parts
    )
    return message


def checkpoint_to_proto(checkpoint: FileSet, urls: dict[str, str]) -> attempt_service_pb2.Checkpoint:
    """Returns a checkpoint with URLs to GET its files from."""
    return attempt_service_pb2.Checkpoint(
        step=checkpoint.checkpoint_step or 0,
        attempt=checkpoint.key.attempt,
        files=files_to_proto(checkpoint, urls),
    )


def device_from_proto(message: worker_pb2.Device) -> Device:
    """Returns what a trainer's probe found. Raises InvalidField for one that names no class."""
    device_class = device_class_from_proto(message.device_class)
    if device_class is DeviceClass.ANY:
        raise InvalidField("device.device_class", "must name the kind of hardware")
    versions = list(message.versions.items())[:_MAX_VERSIONS]
    return Device(
        device_class=device_class,
        name=clean_text(message.name, _MAX_TEXT_BYTES),
        memory_bytes=max(message.memory_bytes, 0),
        can_train_4bit=message.can_train_4bit,
        four_bit_problem=clean_text(message.four_bit_problem, _MAX_TEXT_BYTES),
        decoder=clean_text(message.decoder, _MAX_TEXT_BYTES),
        versions={clean_text(name, 100): clean_text(version, 100) for name, version in versions},
        device_count=min(max(message.device_count, 1), MAX_DEVICES),
        driver_version=clean_text(message.driver_version, 100),
        compute_types=tuple(clean_text(each, 20) for each in message.compute_types[:_MAX_TYPES]),
        matmul_flops=_measured(message.matmul_flops),
        decode_pixels_per_second=_measured(message.decode_pixels_per_second),
        profile=clean_text(message.profile, 100),
    )


def _measured(value: float) -> float:
    """A speed that a trainer tells; 0 for what can be none."""
    return value if math.isfinite(value) and 0 < value < 1e21 else 0.0


def recipes_from_proto(numbers: Iterable[recipe_pb2.Recipe.ValueType]) -> tuple[Recipe, ...]:
    """Returns what a trainer can do; QLoRA when it does not say."""
    found = [Recipe(recipe_pb2.Recipe.Name(number).removeprefix("RECIPE_")) for number in numbers if number]
    return tuple(dict.fromkeys(found)) or (Recipe.QLORA,)


def worker_id_from_text(text: str) -> WorkerId | None:
    """Returns a worker's id; None for an empty text."""
    return WorkerId(text) if text else None


def _report_body(request: attempt_service_pb2.AttachRequest) -> ReportBody | None:
    match request.WhichOneof("body"):
        case "started":
            return Started(max(request.started.total_steps, 0))
        case "progress":
            return progress_from_proto(request.progress)
        case "metrics":
            return _metrics(request.metrics)
        case "log":
            level = _level(request.log.level)
            return LogLine(level, clean_text(request.log.text, MAX_LOG_BYTES))
        case "predictions":
            return predictions_from_proto(request.predictions)
        case _:
            return None


def _level(number: int) -> LogLevel:
    return LogLevel(number) if number in LogLevel.__members__.values() else LogLevel.INFO


def _metrics(message: job_event_pb2.MetricPoint) -> MetricPoint:
    values = list(message.values.items())[:MAX_METRICS]
    return MetricPoint(max(message.step, 0), {clean_text(name, MAX_METRIC_NAME): value for name, value in values})


def _within(value: float, largest: float) -> float:
    return min(max(value, 0.0), largest) if math.isfinite(value) else 0.0
