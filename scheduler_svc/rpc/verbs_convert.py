"""What owners do with their jobs, from and to the contract."""

from __future__ import annotations

import re

from reeltune.scheduler.v1 import checkpoint_pb2
from reeltune.scheduler.v1 import training_verbs_pb2 as pb

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.files import CheckpointRecord
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import JobUpdate
from scheduler_svc.rpc.convert import check_printable, timestamp

_CHANGEABLE = ("name", "priority")
_MAX_NAME = 100
_MAX_PRIORITY = 100
_MAX_ETAG = 64
_JOB_ID = re.compile(r"job_[0-9A-Z]{26}")


def update_from_proto(request: pb.UpdateTrainingJobRequest) -> tuple[JobId, JobUpdate]:
    """Returns which job to change and how: the fields of the mask, or without one those that are set.

    Raises:
        InvalidField: there is nothing to change, or something that cannot be changed or taken.
    """
    job = request.job
    if not _JOB_ID.fullmatch(job.id):
        raise InvalidField("job.id", "must be a job's id: `job_` and 26 digits or capital letters")
    fields = tuple(request.update_mask.paths) or tuple(name for name in _CHANGEABLE if getattr(job, name))
    if len(job.etag) > _MAX_ETAG:
        raise InvalidField("job.etag", f"must have at most {_MAX_ETAG} characters: no job has a longer one")
    can_be = f"name any of {', '.join(_CHANGEABLE)}"
    for name in fields:
        if name not in _CHANGEABLE:
            raise InvalidField("update_mask", f"{name!r} cannot be changed; {can_be}")
    if not fields:
        raise InvalidField("update_mask", f"is empty, and nothing in `job` is set; {can_be}")
    return JobId(job.id), JobUpdate(
        name=_name(job.name) if "name" in fields else None,
        priority=_priority(job.priority) if "priority" in fields else None,
        etag=job.etag,
    )


def checkpoint_to_proto(checkpoint: CheckpointRecord) -> checkpoint_pb2.CheckpointInfo:
    """Returns a checkpoint as its job's owner sees it."""
    return checkpoint_pb2.CheckpointInfo(
        step=checkpoint.step,
        attempt=checkpoint.attempt,
        size_bytes=checkpoint.size_bytes,
        create_time=timestamp(checkpoint.create_time),
        eval_loss=checkpoint.eval_loss,
        is_newest=checkpoint.is_newest,
    )


def _name(name: str) -> str:
    if len(name) > _MAX_NAME:
        raise InvalidField("job.name", f"must have at most {_MAX_NAME} characters")
    return check_printable("job.name", name)


def _priority(priority: int) -> int:
    if abs(priority) > _MAX_PRIORITY:
        raise InvalidField("job.priority", f"must be {-_MAX_PRIORITY} to {_MAX_PRIORITY}")
    return priority
