"""Files that want to do harm: each ends as a typed fault of its own within the deadline, and the next one is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from catalog_svc.domain.clip import REMEDIES, DecodedClip, FaultyClip
from catalog_svc.probe.pool import ProbePool
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.hostile_clips import HOSTILE

MIB = 1024**2
CHILD_RSS = 400 * MIB
"""Libraries take about 120 MiB of it."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool() -> AsyncIterator[ProbePool]:
    made = ProbePool(1, deadline_seconds=6)
    yield made
    await made.close()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_a_fault_and_costs_nothing_else(pool: ProbePool, tmp_path: Path, name: str) -> None:
    make, reasons = HOSTILE[name]
    path = tmp_path / "clip.mp4"
    path.write_bytes(make())
    outcome = (await pool.probe_clip(path)).outcome
    assert (outcome.fault.value if isinstance(outcome, FaultyClip) else "") in reasons, outcome
    if isinstance(outcome, FaultyClip):
        assert outcome.detail
        assert REMEDIES[outcome.fault]
        assert str(tmp_path) not in outcome.detail
    assert all(psutil.Process(pid).memory_info().rss < CHILD_RSS for pid in pool.child_pids())
    path.write_bytes(h264_clip(1))
    assert isinstance((await pool.probe_clip(path)).outcome, DecodedClip)
