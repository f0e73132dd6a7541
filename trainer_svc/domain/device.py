"""What the start-up probe found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class DeviceClass(StrEnum):
    CPU = "CPU"
    CUDA = "CUDA"
    JETSON = "JETSON"


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
    """How many such devices one job can use together, each by a process of its own."""
    driver_version: str = ""
    compute_types: tuple[str, ...] = ()
    """What matrix products ran in: fp32, bf16, fp16."""
    matmul_flops: float = 0.0
    """Operations a second of a large matrix product; 0: not measured."""
    decode_pixels_per_second: float = 0.0
    """Of one decode process; 0: not measured."""
    profile: str = ""
    """What the operator has this machine stand for."""

    def shared_by(self, wanted: int) -> Device:
        """This machine with as many devices as an operator wants, 0 for all there are. A CPU is as many as is wanted,
        which share its memory; GPUs are no more than there are."""
        if self.device_class is DeviceClass.CUDA:
            return replace(self, device_count=min(wanted or self.device_count, self.device_count))
        count = wanted or 1
        return replace(self, device_count=count, memory_bytes=self.memory_bytes // count)
