"""Machines that a trainer can stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from trainer_svc.domain.device import Device, DeviceClass

_GIB = 1 << 30


class ProfileName(StrEnum):
    """The profiles that there are."""

    NONE = ""
    JETSON_NANO_EMULATED = "jetson-nano-emulated"


@dataclass(frozen=True, slots=True)
class Profile:
    """What such a machine has. Its memory is a limit on each training process; its GPU is not emulated."""

    name: ProfileName
    device_class: DeviceClass
    memory_bytes: int
    threads: int

    def of(self, device: Device) -> Device:
        """Returns the machine at hand as the one that it stands for."""
        memory = min(self.memory_bytes, device.memory_bytes)
        return replace(device, device_class=self.device_class, memory_bytes=memory, profile=self.name.value)


PROFILES = {
    ProfileName.JETSON_NANO_EMULATED: Profile(
        ProfileName.JETSON_NANO_EMULATED, DeviceClass.JETSON, memory_bytes=4 * _GIB, threads=4
    )
}
