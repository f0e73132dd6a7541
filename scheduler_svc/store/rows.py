"""Rows and domain objects, both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from scheduler_svc.domain.events import (
    CheckpointSaved,
    EventBody,
    EventKind,
    JobEvent,
    LogLevel,
    LogLine,
    MetricPoint,
    StateChange,
)
from scheduler_svc.domain.files import StoredFile
from scheduler_svc.domain.ids import JobId, UserId, WorkerId
from scheduler_svc.domain.job import DeviceClass, Job, JobState, Needs, Progress, Recipe, StateReason
from scheduler_svc.domain.parameters import parameters_from_json
from scheduler_svc.domain.predictions import Prediction, Predictions
from scheduler_svc.domain.retry import FailureCounts
from scheduler_svc.domain.worker import Device, Worker, WorkerState


class Row(Protocol):
    """A row, by column name."""

    def __getitem__(self, column: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class LockedJob:
    """A job whose row this transaction has locked, with what the guards of the life cycle ask."""

    job: Job
    counts: FailureCounts
    lease_expired: bool
    grace_spent: bool


def the_row(row: Row | None) -> Row:
    """Returns a row that a statement is bound to return."""
    if row is None:
        raise AssertionError("a statement that always returns a row returned none")
    return row


def job_from_row(row: Row) -> Job:
    """Returns the job of a row of `jobs`."""
    return Job(
        id=JobId(row["id"]),
        owner_id=UserId(row["owner_id"]),
        name=row["name"],
        model_id=row["model_id"],
        dataset_id=row["dataset_id"],
        dataset_version=row["dataset_version"],
        parameters=parameters_from_json(row["parameters"]),
        needs=needs_from_row(row),
        priority=row["priority"],
        state=JobState(row["state"]),
        reason=StateReason(row["reason"]),
        message=row["message"],
        generation=row["generation"],
        attempt=row["attempt"],
        worker_id=WorkerId(row["worker_id"]) if row["worker_id"] else None,
        sequence=row["sequence"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        has_artifact=row["artifact_attempt"] is not None,
        progress=progress_from_json(row["progress"]),
        is_paused=row["is_paused"],
        revision=row["revision"],
        source_job_id=JobId(row["source_job_id"]) if row["source_job_id"] else None,
    )


def job_to_json(job: Job) -> dict[str, Any]:
    """Returns plain values that jsonb can hold and `job_from_json` reads back."""
    times = {name: value.isoformat() for name in _TIMES if (value := getattr(job, name)) is not None}
    return {
        **asdict(job),
        "parameters": job.parameters.to_json(),
        "progress": progress_to_json(job.progress),
        **dict.fromkeys(_TIMES),
        **times,
    }


def job_from_json(value: Mapping[str, Any]) -> Job:
    """Returns the job in plain values."""
    times = {name: datetime.fromisoformat(value[name]) for name in _TIMES if value[name] is not None}
    needs = value["needs"]
    enums = {"device_class": DeviceClass(needs["device_class"]), "recipe": Recipe(needs["recipe"])}
    return Job(
        **{
            **value,
            "parameters": parameters_from_json(value["parameters"]),
            "needs": Needs(**{**needs, **enums}),
            "state": JobState(value["state"]),
            "reason": StateReason(value["reason"]),
            "progress": progress_from_json(value["progress"]),
            **times,
        }
    )


_TIMES = ("create_time", "update_time", "start_time", "end_time")


def needs_from_row(row: Row) -> Needs:
    """Returns what the job of a row of `jobs` needs of a trainer."""
    return Needs(
        device_class=DeviceClass(row["device_class"]),
        device_count=row["device_count"],
        device_memory_bytes=row["device_memory_bytes"],
        recipe=Recipe(row["recipe"]),
        is_4bit=row["needs_4bit"],
    )


def locked_job_from_row(row: Row) -> LockedJob:
    """Returns a job of one of the `lock_…` queries."""
    counts = FailureCounts(row["infrastructure_failures"], row["crashes"])
    return LockedJob(job_from_row(row), counts, row["lease_expired"], row["grace_spent"])


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Returns plain values that jsonb can hold."""
    return _finite(asdict(progress))


def progress_from_json(value: Mapping[str, Any]) -> Progress:
    """Returns the progress in plain values."""
    numbers = {name: float(value[name]) for name in ("epoch", "fraction") if name in value}
    loss = value.get("loss")
    return Progress(
        phase=value.get("phase", ""),
        step=value.get("step", 0),
        total_steps=value.get("total_steps", 0),
        loss=None if loss is None else float(loss),
        **numbers,
    )


def event_to_columns(body: EventBody) -> tuple[str, int | None, str]:
    """Returns kind, level and body (as JSON text) of an event."""
    match body:
        case StateChange(source, target, reason, message):
            value: dict[str, Any] = {"from": source, "to": target, "reason": reason, "message": message}
            return EventKind.STATE_CHANGE, None, _dumps(value)
        case Progress():
            return EventKind.PROGRESS, None, _dumps(progress_to_json(body))
        case MetricPoint(step, values):
            return EventKind.METRICS, None, _dumps({"step": step, "values": _finite(values)})
        case LogLine(level, text):
            return EventKind.LOG, int(level), _dumps({"text": text})
        case CheckpointSaved(step, size_bytes):
            return EventKind.CHECKPOINT, None, _dumps({"step": step, "size_bytes": size_bytes})
        case Predictions(step, best, worst):
            told = {"step": step, "best": _predictions_to_json(best), "worst": _predictions_to_json(worst)}
            return EventKind.PREDICTIONS, None, _dumps(told)


def event_from_row(row: Row) -> JobEvent:
    """Returns the event of a row of `job_events`."""
    return JobEvent(row["sequence"], row["create_time"], row["attempt"], _body_from_row(row))


def _body_from_row(row: Row) -> EventBody:
    body = row["body"]
    match EventKind(row["kind"]):
        case EventKind.STATE_CHANGE:
            source = JobState(body["from"]) if body["from"] else None
            return StateChange(source, JobState(body["to"]), StateReason(body["reason"]), body["message"])
        case EventKind.PROGRESS:
            return progress_from_json(body)
        case EventKind.METRICS:
            return MetricPoint(body["step"], {name: float(value) for name, value in body["values"].items()})
        case EventKind.LOG:
            return LogLine(LogLevel(row["level"]), body["text"])
        case EventKind.CHECKPOINT:
            return CheckpointSaved(body["step"], body["size_bytes"])
        case EventKind.PREDICTIONS:
            best, worst = (_predictions_from_json(body[name]) for name in ("best", "worst"))
            return Predictions(body["step"], best, worst)


def _predictions_to_json(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    return [_finite(asdict(each)) for each in predictions]


def _predictions_from_json(value: Iterable[Mapping[str, Any]]) -> tuple[Prediction, ...]:
    return tuple(Prediction(**{**each, "loss": float(each["loss"])}) for each in value)


def files_to_json(files: Iterable[StoredFile]) -> list[dict[str, Any]]:
    """Returns plain values that jsonb can hold."""
    return [asdict(file) for file in files]


def files_from_json(value: Iterable[Mapping[str, Any]]) -> tuple[StoredFile, ...]:
    """Returns the files in plain values."""
    return tuple(StoredFile(**file) for file in value)


def device_from_json(value: Mapping[str, Any]) -> Device:
    """Returns the device in plain values."""
    types = tuple(value.get("compute_types", ()))
    return Device(**{**value, "device_class": DeviceClass(value["device_class"]), "compute_types": types})


def worker_from_row(row: Row) -> Worker:
    """Returns the worker of a row of `list_workers`."""
    return Worker(
        id=WorkerId(row["id"]),
        name=row["name"],
        device=device_from_json(row["device"]),
        state=_worker_state(row),
        job_ids=tuple(JobId(job_id) for job_id in row["job_ids"]),
        version=row["version"],
        create_time=row["create_time"],
        heartbeat_time=row["heartbeat_time"],
        recipes=tuple(Recipe(recipe) for recipe in row["recipes"]),
        drain_time=row["drain_time"],
    )


def _worker_state(row: Row) -> WorkerState:
    if row["is_lost"]:
        return WorkerState.LOST
    if row["drain_time"] is not None:
        return WorkerState.DRAINING if row["job_ids"] else WorkerState.DRAINED
    return WorkerState.BUSY if row["job_ids"] else WorkerState.IDLE


def worker_to_json(worker: Worker) -> dict[str, Any]:
    """Returns plain values that jsonb can hold."""
    times = {name: None if (time := getattr(worker, name)) is None else time.isoformat() for name in _WORKER_TIMES}
    return {**asdict(worker), **times}


def worker_from_json(value: Mapping[str, Any]) -> Worker:
    """Returns the worker in plain values."""
    times = {name: None if value[name] is None else datetime.fromisoformat(value[name]) for name in _WORKER_TIMES}
    parts = {
        "device": device_from_json(value["device"]),
        "state": WorkerState(value["state"]),
        "job_ids": tuple(value["job_ids"]),
        "recipes": tuple(Recipe(recipe) for recipe in value["recipes"]),
    }
    return Worker(**{**value, **times, **parts})


_WORKER_TIMES = ("create_time", "heartbeat_time", "drain_time")


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinities: they travel by name, and `float` reads them back."""
    return {
        name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _dumps(value: object) -> str:
    return json.dumps(value, allow_nan=False)
