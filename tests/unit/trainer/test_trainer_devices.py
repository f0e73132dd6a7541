"""Profiles, and what boards print of themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer_svc.child.gauges import NvmlGauge
from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.device_readings import visible_devices
from trainer_svc.domain.profile import PROFILES, ProfileName
from trainer_svc.domain.tegrastats import read_tegrastats
from trainer_svc.qlora.machine import machine_memory_bytes

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


ORIN_NANO_IDLE = (
    "09-14-2026 07:11:02 RAM 1402/7620MB (lfb 140x4MB) SWAP 163/3810MB (cached 2MB) CPU [2%@1510,0%@729,off,off] "
    "EMC_FREQ 12%@204 GR3D_FREQ 0%@[306] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@47.5C soc2@45.5C gpu@48.75C "
    "tj@48.75C VDD_IN 5120mW/5120mW VDD_CPU_GPU_CV 490mW/530mW VDD_SOC 1480mW/1480mW"
)
AGX_ORIN = (
    "RAM 18011/62841MB (lfb 460x4MB) SWAP 80/31420MB (cached 0MB) CPU [14%@2188,5%@2112] EMC_FREQ 3%@2133 "
    "GR3D_FREQ 61%@[1300,1299] NVENC 71%@166 VIC 30%@115 APE 174 CV0@-256C CPU@51.5C Tboard@32C GPU@-256C tj@52.25C "
    "VDD_GPU_SOC 2400mW/2412mW VDD_CPU_CV 1600mW/1607mW VIN_SYS_5V0 4700mW/4707mW NC 0mW/0mW VDDQ_VDD2_1V8AO 3mW/3mW"
)
AGX_XAVIER = (
    "RAM 3100/15827MB (lfb 2690x4MB) SWAP 0/7913MB (cached 0MB) CPU [12%@1190,8%@1190,off,off] EMC_FREQ 2%@2133 "
    "GR3D_FREQ 7%@318 APE 150 MTS fg 0% bg 0% AO@36C GPU@37.5C Tdiode@39C PMIC@100C CPU@38C thermal@37.2C "
    "GPU 310/155 CPU 620/600 SOC 930/930 CV 0/0 VDDRQ 155/155 SYS5V 1890/1800"
)


@pytest.mark.parametrize(
    ("line", "memory_mib", "utilization", "temperature", "power"),
    [
        (NANO, 2301, 25.0, 43.5, 4.21),
        (ORIN, 5120, 99.0, 48.2, 9.21),
        (ORIN_NANO_IDLE, 1402, 0.0, 48.75, 5.12),
        (AGX_ORIN, 18011, 61.0, 52.25, 8.7),
        (AGX_XAVIER, 3100, 7.0, 37.5, 3.905),
    ],
    ids=["nano", "orin", "orin-nano-idle", "agx-orin", "agx-xavier"],
)
def test_a_board_tells_of_itself(
    line: str, memory_mib: int, utilization: float, temperature: float, power: float
) -> None:
    assert read_tegrastats(line) == pytest.approx(
        {
            "device_memory_bytes": float(memory_mib << 20),
            "device_utilization_percent": utilization,
            "device_temperature_celsius": temperature,
            "device_power_watts": power,
        }
    )


@pytest.mark.parametrize("line", ["", "tegrastats: command failed", "RAM ?/?MB GR3D_FREQ off", "gpu@-256C"])
def test_what_is_not_told_is_absent(line: str) -> None:
    assert read_tegrastats(line) == {}


class NoSuchReading(Exception):
    """What the library raises."""


class FourGpus:
    """The part of pynvml that is used, over numbers."""

    NVMLError = NoSuchReading
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        self.is_ready = False

    def nvmlInit(self) -> None:  # noqa: N802
        self.is_ready = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=20 * device)

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=1000 + device)

    def nvmlDeviceGetTemperature(self, device: int, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 50 + device

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:  # noqa: N802
        if device == 2:
            raise NoSuchReading
        return 100_000 + 1000 * device


def test_each_gpu_of_a_job_is_read_and_all_of_them_together() -> None:
    library = FourGpus()
    found = NvmlGauge(library, visible_devices("3, GPU-2,0", 2)).read(1)
    assert library.is_ready
    assert found == {
        "device_utilization_percent": 50.0,
        "device_utilization_percent.0": 60.0,
        "device_utilization_percent.1": 40.0,
        "device_memory_bytes": 2005.0,
        "device_memory_bytes.0": 1003.0,
        "device_memory_bytes.1": 1002.0,
        "device_temperature_celsius": 53.0,
        "device_temperature_celsius.0": 53.0,
        "device_temperature_celsius.1": 52.0,
        # The other one tells none.
        "device_power_watts": 103.0,
        "device_power_watts.0": 103.0,
    }
    assert NvmlGauge(library, visible_devices(None, 1)).read(1) == {
        "device_utilization_percent": 0.0,
        "device_memory_bytes": 1000.0,
        "device_temperature_celsius": 50.0,
        "device_power_watts": 100.0,
    }


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [(None, 2, ["0", "1"]), ("", 1, ["0"]), ("2,5,7", 2, ["2", "5"]), ("GPU-ab , MIG-cd", 2, ["GPU-ab", "MIG-cd"])],
)
def test_devices_are_those_that_cuda_shows(visible: str | None, count: int, names: list[str]) -> None:
    assert visible_devices(visible, count) == names


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


def test_the_memory_of_a_container_is_what_it_may_have(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    machine = machine_memory_bytes(limit)
    assert machine > 1 << 20
    for told, expected in (("max", machine), ("1048576", 1 << 20), (str(machine * 2), machine)):
        limit.write_text(told + "\n")
        assert machine_memory_bytes(limit) == expected
