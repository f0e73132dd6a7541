"""What `tegrastats` prints, in numbers. Pure.

The forms are those of NVIDIA's documentation (Jetson Linux Developer Guide, "tegrastats Utility") for Jetson Linux 32
to 36, and those of lines that users of Nano, Orin Nano and NX, AGX Orin and Xavier have published: `RAM 2301/3964MB …
GR3D_FREQ 25%@[624] … gpu@45.5C … VDD_IN 5210mW/4980mW`. No board was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MEMORY = re.compile(r"\bRAM (\d+)/(\d+)MB")
_UTILIZATION = re.compile(r"\bGR3D(?:_FREQ)? (\d+)%")
_TEMPERATURE = re.compile(r"\b(gpu|tj|thermal)@(-?\d+(?:\.\d+)?)C", re.IGNORECASE)
_SENSORS = ("gpu", "tj", "thermal")
"""The first that tells is taken: the GPU's own has no power while nothing runs on it."""
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_BOARD = frozenset({"VDD_IN", "POM_5V_IN"})
"""Rails that feed all others."""
_RAILS = frozenset(
    {
        *("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        *("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    }
)
"""Of boards without such a one (AGX Orin, AGX Xavier): those that add up to it."""
_OFF = -256.0
"""What a sensor tells whose part has no power."""


def read_tegrastats(line: str) -> Mapping[str, float]:
    """Returns what a line tells, under the names of the metrics; what it does not tell is absent."""
    found: dict[str, float] = {}
    if memory := _MEMORY.search(line):
        found["device_memory_bytes"] = float(int(memory[1]) << 20)
    if utilization := _UTILIZATION.search(line):
        found["device_utilization_percent"] = float(utilization[1])
    temperatures = {name.lower(): float(value) for name, value in _TEMPERATURE.findall(line)}
    told = [temperatures[name] for name in _SENSORS if temperatures.get(name, _OFF) > _OFF]
    if told:
        found["device_temperature_celsius"] = told[0]
    rails = {name: int(value) for name, value in _POWER.findall(line)}
    power = [rails[name] for name in _BOARD & rails.keys()] or [rails[name] for name in _RAILS & rails.keys()]
    if power:
        found["device_power_watts"] = sum(power) / 1000
    return found
