"""Where a job may run."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler_svc.domain.job import DeviceClass, Needs


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job may run: a registered trainer's device, or one that is only thought of."""

    device_class: DeviceClass
    memory_bytes: int = 0
    """0 where that is not asked."""
    matmul_flops: float = 0.0
    """Operations a second that its probe has measured; 0 where it did not."""
    decode_pixels: float = 0.0
    """Pixels that one process decodes in a second, as the probe has measured."""
    names: tuple[str, ...] = ()
    """The trainers that have such a device."""
    is_emulated: bool = False
    """A CPU stands for it."""

    @property
    def shares_memory(self) -> bool:
        """Whether model, libraries and decoders use the same memory."""
        return self.device_class is not DeviceClass.CUDA

    @property
    def is_processor(self) -> bool:
        """Whether the machine's processor computes: several of its devices are as fast as one."""
        return self.is_emulated or self.device_class is DeviceClass.CPU


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """The device of registered trainers, and what of a job they can hold besides its memory."""

    place: Place
    device_count: int = 1
    can_train_4bit: bool = True

    def serves(self, needs: Needs) -> bool:
        """Tells whether these trainers can hold a job with such needs, memory aside."""
        return (
            needs.device_class in (DeviceClass.ANY, self.place.device_class)
            and needs.device_count <= self.device_count
            and (self.can_train_4bit or not needs.is_4bit)
        )
