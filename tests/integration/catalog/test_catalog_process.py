"""The service as an operator runs it: a process that is started, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import snapshot_service_pb2 as snap
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.snapshot_service_pb2_grpc import SnapshotServiceStub

from meshkit.testing import assert_eventually
from tests.integration.catalog.catalog_process import MIB, Peers, Start, create, upload, watch
from tests.rpc.catalog.clips import h264_clip


async def test_a_validation_survives_kill_9_and_sigterm_ends_in_order(
    start: Start, peers: Peers, tmp_path: Path
) -> None:
    user = peers.user()
    first = await start()
    dataset_id = await create(first, user)
    clips = {f"{number}.mp4": h264_clip(number, frames=240, width=480, height=480) for number in range(16)}
    rows = "".join(f"{path},A bar.\n" for path in clips)
    for path, data in {"annotations.csv": f"video,caption\n{rows}".encode(), **clips}.items():
        await upload(first, dataset_id, path, data, user)
    stub = DatasetServiceStub(first.channel)
    await stub.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id), metadata=user)
    children: list[psutil.Process] = []

    def is_decoding() -> bool:
        children[:] = psutil.Process(first.process.pid).children()
        return bool(children)

    await assert_eventually(is_decoding)
    first.process.kill()
    await first.process.wait()
    await assert_eventually(lambda: not any(child.is_running() for child in children))
    (left,) = tmp_path.glob("reeltune-spool-*")
    assert list(left.glob("reeltune-probe-*")), "what the dead process was about"

    second = await start()
    ready = await watch(second, dataset_id, user)
    assert ready.state == dataset_pb2.DATASET_STATE_READY
    grant = peers.grant(dataset=dataset_id, model="")
    stream = SnapshotServiceStub(second.channel).StreamDatasetSnapshot(
        snap.StreamDatasetSnapshotRequest(dataset_id=dataset_id), metadata=grant, timeout=30
    )
    pieces = [piece.WhichOneof("piece") async for piece in stream]
    assert pieces == ["dataset", "clips", "samples", "end"]
    assert not left.exists()
    second.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await second.process.wait() == 0
    assert not list(tmp_path.iterdir())


async def test_a_large_upload_takes_little_memory(start: Start, peers: Peers) -> None:
    catalog = await start()
    user = peers.user()
    dataset_id = await create(catalog, user)
    await upload(catalog, dataset_id, "warm.mp4", os.urandom(20 * MIB), user)
    process = psutil.Process(catalog.process.pid)
    before, highest = process.memory_info().rss, 0
    size = 160 * MIB
    work = asyncio.create_task(upload(catalog, dataset_id, "big.mp4", os.urandom(size), user))
    while not work.done():
        highest = max(highest, process.memory_info().rss)
        await asyncio.wait({work}, timeout=0.05)
    await work
    assert highest - before < 80 * MIB, (highest - before) / MIB


async def test_missing_settings_are_named_without_their_values() -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "CATALOG_POSTGRES_DSN": "postgres://x:canary@h/d",
        "CATALOG_MAX_FILES": "x",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catalog_svc", env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "CATALOG_S3_ENDPOINT" in errors.decode()
    assert "canary" not in errors.decode()
