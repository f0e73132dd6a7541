"""A child that is held to less memory than it wants is told so; nothing is killed, and nobody else is held."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from meshkit.testing import assert_eventually
from trainer_svc.child.gauges import ProcessGauge
from trainer_svc.child.process import memory_limit, spawn_child

LIMIT = 256 << 20
WANTS = "import numpy, sys\ntry:\n    numpy.ones({size}, numpy.uint8)\nexcept MemoryError:\n    sys.exit(7)"


async def run(code: str, folder: Path) -> int | None:
    environment = {"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", **memory_limit(LIMIT)}
    child = await spawn_child(lambda fd: [sys.executable, "-c", code], folder=folder, environment=environment)
    try:
        return await child.wait_for_exit(120)
    finally:
        await child.kill()


async def test_a_child_gets_as_much_memory_as_it_may_have_and_no_more(tmp_path: Path) -> None:
    assert await run(WANTS.format(size=LIMIT // 4), tmp_path) == 0
    assert await run(WANTS.format(size=LIMIT), tmp_path) == 7, "a MemoryError, not a signal"


async def test_the_limit_holds_for_what_a_child_starts(tmp_path: Path) -> None:
    inner = WANTS.format(size=LIMIT).replace("\n", "\\n")
    code = f"import subprocess, sys\nsys.exit(subprocess.run([sys.executable, '-c', '{inner}']).returncode)"
    assert await run(code, tmp_path) == 7


async def test_what_processes_use_is_read_off_them(tmp_path: Path) -> None:
    code = "while True: pass"
    child = await spawn_child(
        lambda fd: [sys.executable, "-c", code], folder=tmp_path, environment={"PATH": os.environ["PATH"]}
    )
    try:
        gauge = ProcessGauge()
        first = await asyncio.to_thread(gauge.read, child.pid)
        assert "device_utilization_percent" not in first, "since when is not known yet"

        async def is_busy() -> bool:
            found = await asyncio.to_thread(gauge.read, child.pid)
            return found.get("device_utilization_percent", 0.0) > 0 and found["device_memory_bytes"] > 1 << 20

        await assert_eventually(is_busy)
    finally:
        await child.kill()
    assert (await asyncio.to_thread(ProcessGauge().read, child.pid))["device_memory_bytes"] == 0.0
