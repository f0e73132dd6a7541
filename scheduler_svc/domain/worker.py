"""Trainers as the scheduler sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from scheduler_svc.domain.ids import JobId, WorkerId
from scheduler_svc.domain.job import DeviceClass, Recipe


class WorkerState(StrEnum):
    """Whether a worker is there; the names are those of the contract without the prefix `WORKER_STATE_`."""

    IDLE = "IDLE"
    BUSY = "BUSY"
    LOST = "LOST"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


@dataclass(frozen=True, slots=True)
class Device:
    """What a trainer's start-up probe found."""

    device_class: DeviceClass
    name: str = ""
    memory_bytes: int = 0
    can_train_4bit: bool = False
    four_bit_problem: str = ""
    decoder: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device_count: int = 1
    """How many such devices one job can use together."""
    driver_version: str = ""
    compute_types: tuple[str, ...] = ()
    matmul_flops: float = 0.0
    """Operations a second, as the probe measured them; 0: it did not."""
    decode_pixels_per_second: float = 0.0
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """A registered trainer."""

    id: WorkerId
    name: str
    device: Device
    state: WorkerState
    job_ids: tuple[JobId, ...]
    version: str
    create_time: datetime
    heartbeat_time: datetime
    recipes: tuple[Recipe, ...] = (Recipe.QLORA,)
    drain_time: datetime | None = None
    """When it was told to take no more jobs."""
