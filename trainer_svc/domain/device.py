"""What the start-up probe found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class DeviceClass(StrEnum):
    CPU = "CPU"
    CUDA = "CUDA"
    JETSON = "JETSON"

    @property
    def shares_memory_with_host(self) -> bool:
        return self is not DeviceClass.CUDA


@dataclass(frozen=True, slots=True)
class Device:
    """This machine as a place to train on."""

    device_class: DeviceClass
    name: str
    memory_bytes: int
    can_train_4bit: bool
    four_bit_problem: str = ""
    """Why a 4-bit layer did not run, when it did not."""
    decoder: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device_count: int = 1
    """How many such devices one job can use together. The training process drives one, however many are there."""
