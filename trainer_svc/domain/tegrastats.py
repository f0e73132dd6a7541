"""What `tegrastats` prints, in numbers. Pure.

The forms are those of NVIDIA's documentation (Jetson Linux Developer Guide, "tegrastats Utility") for Jetson Linux 32
to 36: `RAM 2301/3964MB … GR3D_FREQ 25%@[624] … gpu@45.5C … VDD_IN 5210mW/4980mW`. No board was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MEMORY = re.compile(r"\bRAM (\d+)/(\d+)MB")
_UTILIZATION = re.compile(r"\bGR3D(?:_FREQ)? (\d+)%")
_TEMPERATURE = re.compile(r"\bgpu@(-?\d+(?:\.\d+)?)C", re.IGNORECASE)
_POWER = re.compile(r"\b(?:VDD_IN|POM_5V_IN|VDD_GPU_SOC|POM_5V_GPU) (\d+)(?:mW)?/(\d+)(?:mW)?")
_OFF = -256.0
"""What a sensor tells whose part has no power."""


def read_tegrastats(line: str) -> Mapping[str, float]:
    """Returns what a line tells, under the names of the metrics; what it does not tell is absent."""
    found: dict[str, float] = {}
    if memory := _MEMORY.search(line):
        found["device_memory_bytes"] = float(int(memory[1]) << 20)
    if utilization := _UTILIZATION.search(line):
        found["device_utilization_percent"] = float(utilization[1])
    temperature = _TEMPERATURE.search(line)
    if temperature and float(temperature[1]) > _OFF:
        found["device_temperature_celsius"] = float(temperature[1])
    # The first rail is the whole board's where there is one.
    if power := _POWER.search(line):
        found["device_power_watts"] = int(power[1]) / 1000
    return found
