"""What the devices of a job tell, as metrics of the job. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

_TOGETHER: Mapping[str, Callable[[Sequence[float]], float]] = {
    "device_utilization_percent": fmean,
    "device_memory_bytes": sum,
    "device_temperature_celsius": max,
    "device_power_watts": sum,
}


def visible_devices(visible: str | None, count: int) -> list[str]:
    """Returns the first `count` devices that CUDA shows a process, each by its index or its UUID.

    Args:
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    if visible is None or not visible.strip():
        return [str(index) for index in range(count)]
    return [name.strip() for name in visible.split(",")][:count]


def combine(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns all devices together (utilisation is their mean, temperature the highest, memory and power their sum)
    and, of several, each by itself: `device_power_watts.1` is that of the second."""
    found = {
        name: float(together([each[name] for each in readings if name in each]))
        for name, together in _TOGETHER.items()
        if any(name in each for each in readings)
    }
    if len(readings) > 1:
        found |= {f"{name}.{index}": value for index, each in enumerate(readings) for name, value in each.items()}
    return found
