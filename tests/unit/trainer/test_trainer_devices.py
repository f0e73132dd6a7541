"""Profiles, and what boards print of themselves."""

from __future__ import annotations

import pytest

from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.profile import PROFILES, ProfileName
from trainer_svc.domain.tegrastats import read_tegrastats

NANO = (
    "RAM 2301/3964MB (lfb 5x1MB) SWAP 12/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@1479,9%@1479,5%@1479,"
    "11%@1479] EMC_FREQ 8%@1600 GR3D_FREQ 25%@921 APE 25 PLL@42C CPU@45.5C PMIC@100C GPU@43.5C AO@52C thermal@44.75C "
    "POM_5V_IN 4210/3980 POM_5V_GPU 812/700 POM_5V_CPU 1300/1100"
)
ORIN = (
    "08-01-2024 10:00:00 RAM 5120/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 99%@[624] NVDEC off VIC_FREQ 729 APE 174 CV0@-256C CPU@47.718C SOC2@46.718C gpu@48.2C tj@48.2C "
    "VDD_IN 9210mW/4980mW VDD_CPU_GPU_CV 3000mW/900mW VDD_SOC 1400mW/1400mW"
)


@pytest.mark.parametrize(
    ("line", "memory_mib", "utilization", "temperature", "power"),
    [(NANO, 2301, 25.0, 43.5, 4.21), (ORIN, 5120, 99.0, 48.2, 9.21)],
    ids=["nano", "orin"],
)
def test_a_board_tells_of_itself(
    line: str, memory_mib: int, utilization: float, temperature: float, power: float
) -> None:
    assert read_tegrastats(line) == {
        "device_memory_bytes": float(memory_mib << 20),
        "device_utilization_percent": utilization,
        "device_temperature_celsius": temperature,
        "device_power_watts": power,
    }


@pytest.mark.parametrize("line", ["", "tegrastats: command failed", "RAM ?/?MB GR3D_FREQ off", "gpu@-256C"])
def test_what_is_not_told_is_absent(line: str) -> None:
    assert read_tegrastats(line) == {}


def test_an_emulated_board_has_the_boards_memory_and_class_and_no_more_than_there_is() -> None:
    profile = PROFILES[ProfileName.JETSON_NANO_EMULATED]
    host = Device(DeviceClass.CPU, "a processor", 64 << 30, can_train_4bit=True)
    board = profile.of(host)
    assert (board.device_class, board.memory_bytes, board.profile) == (
        DeviceClass.JETSON,
        4 << 30,
        "jetson-nano-emulated",
    )
    assert board.can_train_4bit
    assert profile.of(Device(DeviceClass.CPU, "small", 1 << 30, can_train_4bit=True)).memory_bytes == 1 << 30
