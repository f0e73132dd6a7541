"""What can be read off a device while it trains, without disturbing it."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import psutil

from trainer_svc.domain.device import DeviceClass
from trainer_svc.domain.device_readings import combine, visible_devices
from trainer_svc.domain.tegrastats import read_tegrastats

_TEGRASTATS_SECONDS = 5.0


class Gauge(Protocol):
    """Reads one kind of device. Slow: call it in a thread."""

    def read(self, pid: int) -> Mapping[str, float]:
        """Returns values by the names of the metrics; what cannot be read is absent."""


class ProcessGauge:
    """The processes of a training: their share of the processors, and the memory that is theirs."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def read(self, pid: int) -> Mapping[str, float]:
        """Shares of a processor's time are since the last call, so that the first one tells none."""
        processor, memory, is_first = 0.0, 0, not self._known
        for process in _family(pid):
            # The object that was asked before knows since when.
            process = self._known.setdefault(process.pid, process)
            with contextlib.suppress(psutil.Error):
                processor += process.cpu_percent(None)
                memory += process.memory_info().rss
        found = {"device_memory_bytes": float(memory)}
        if not is_first:
            found["device_utilization_percent"] = processor / (psutil.cpu_count() or 1)
        temperature = _processor_temperature()
        return found if temperature is None else {**found, "device_temperature_celsius": temperature}


class NvmlGauge:
    """NVIDIA GPUs, by their driver's library."""

    def __init__(self, nvml: Any, names: Sequence[str]) -> None:
        """`nvml`: the module pynvml; `names`: the devices, each by its index or its UUID."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._devices = [_device_of(nvml, name) for name in names]

    def read(self, pid: int) -> Mapping[str, float]:
        """What of all that a driver does not know is left out."""
        return combine([self._read(device) for device in self._devices])

    def _read(self, device: Any) -> Mapping[str, float]:
        nvml = self._nvml
        reads: dict[str, Callable[[], Any]] = {
            "device_utilization_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
            "device_memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(device).used,
            "device_temperature_celsius": lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "device_power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000,
        }
        found: dict[str, float] = {}
        for name, read in reads.items():
            with contextlib.suppress(nvml.NVMLError):
                found[name] = float(read())
        return found


class TegraGauge:
    """A Jetson board, by one line of its `tegrastats`."""

    def __init__(self, program: str) -> None:
        self._program = program

    def read(self, pid: int) -> Mapping[str, float]:
        """Nothing where the program tells nothing in time."""
        command = [self._program, "--interval", "500"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            alarm = threading.Timer(_TEGRASTATS_SECONDS, process.kill)
            alarm.start()
            try:
                # It prints for ever: the first line is enough.
                line = process.stdout.readline() if process.stdout else ""
            finally:
                alarm.cancel()
                process.kill()
        return read_tegrastats(line)


def _device_of(nvml: Any, name: str) -> Any:
    if name.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    return nvml.nvmlDeviceGetHandleByIndex(int(name) if name.isdigit() else 0)


def open_gauge(device_class: DeviceClass, *, is_emulated: bool, count: int = 1) -> Gauge:
    """Returns what reads `count` such devices here; that of the processes where the device's own cannot be read."""
    if is_emulated or device_class is DeviceClass.CPU:
        return ProcessGauge()
    if device_class is DeviceClass.JETSON:
        program = shutil.which("tegrastats")
        return TegraGauge(program) if program else ProcessGauge()
    try:
        # Not installed with everything: pip install nvidia-ml-py.
        nvml = importlib.import_module("pynvml")
        # The library knows nothing of which ones a process is shown.
        return NvmlGauge(nvml, visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), count))
    except ImportError:
        return ProcessGauge()


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _processor_temperature() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)
    sensors = {} if read is None else read()
    for name in ("coretemp", "k10temp", "cpu_thermal"):
        if entries := sensors.get(name):
            return float(entries[0].current)
    return None
