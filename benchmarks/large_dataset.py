"""`large_dataset`: the memory of everything that 4 GiB of clips go through, against that of 1 GiB.

Two datasets of clips of 32 MiB are uploaded through the edge as `reeltune dataset upload` does it, and validated: every
byte is hashed by the client, passes Envoy, is stored, verified, fetched again and decoded. Resident memory is sampled
meanwhile, of each process of the mesh by its name, children of the catalog included, and of the client. The ratio is
the largest one of these: a process's peak over the large dataset to its peak over the small one, both counted from 64
MiB up. `python -m benchmarks.large_dataset 2 20` takes other sizes, in GiB; twice the larger one must be free on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import psutil
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds

from benchmarks.report import Result, print_result
from reeltune_cli.client.connection import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset
from reeltune_cli.stack.background import background_mesh

CLIP_BYTES = 32 * 1024**2
GIB, MIB = 1024**3, 1024**2
FLOOR_MIB = 64.0
"""Below it, a process's growth says more about its start than about its data."""
GOAL = 1.25
_SAMPLE_SECONDS = 0.2


@dataclass(slots=True)
class Peaks:
    """The highest resident memory of each kind of process, in MiB, by name."""

    mib: dict[str, float] = field(default_factory=dict)

    def sample(self) -> None:
        """Looks once: at this process, and at all that descend from it."""
        me = psutil.Process()
        self._note("client", me)
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if name := _name(process):
                    self._note(name, process)

    def _note(self, name: str, process: psutil.Process) -> None:
        self.mib[name] = max(self.mib.get(name, 0.0), process.memory_info().rss / MIB)


async def main(small_gib: float, large_gib: float) -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        clip = encoded()
        async with background_mesh(work / "home", "--no-trainer") as endpoint, Client(endpoint) as client:
            await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
            # One before, so that all processes have done all they do.
            await taken_in(client, clip, work / "first", round(GIB / 4))
            small, _ = await taken_in(client, clip, work / "small", round(small_gib * GIB))
            large, seconds = await taken_in(client, clip, work / "large", round(large_gib * GIB))
    growth = {name: max(FLOOR_MIB, peak) / max(FLOOR_MIB, small[name]) for name, peak in large.items() if name in small}
    figures = {"small_gib": small_gib, "large_gib": large_gib, "large_seconds": seconds}
    for name in sorted(growth):
        figures |= {f"{name}_peak_small_mib": small[name], f"{name}_peak_large_mib": large[name]}
    print_result(Result("large_dataset", max(growth.values()), GOAL, higher_is_better=False, figures=figures))


async def taken_in(client: Client, clip: bytes, folder: Path, size: int) -> tuple[dict[str, float], float]:
    """Uploads and validates a dataset of so many bytes; returns the peaks, and the seconds that it took."""
    count = max(1, size // CLIP_BYTES)
    write_dataset(folder, clip, count)
    dataset_id = (await client.datasets.CreateDataset(ds.CreateDatasetRequest(name=folder.name))).dataset.id
    began = time.perf_counter()
    async with sampled() as peaks:
        await upload_folder(client, dataset_id, folder)
        await client.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id))
        last = [dataset async for dataset in watch_dataset(client, dataset_id)][-1]
    seconds = time.perf_counter() - began
    assert (last.state, last.counts.clips) == (dataset_pb2.DATASET_STATE_READY, count), last
    shutil.rmtree(folder)
    return peaks.mib, seconds


def write_dataset(folder: Path, clip: bytes, count: int) -> None:
    """Writes clips that players play alike and nobody takes for the same: each ends in a box that is passed over."""
    (folder / "clips").mkdir(parents=True)
    rows = []
    for number in range(count):
        path = folder / "clips" / f"{number:05}.mp4"
        with path.open("wb") as file:
            file.write(clip)
            file.write((CLIP_BYTES - len(clip)).to_bytes(4, "big") + b"free" + os.urandom(32))
            file.truncate(CLIP_BYTES)  # a hole, so that the clips themselves take next to no disk
        rows.append({"video": f"clips/{path.name}", "caption": "A texture moves."})
    (folder / "annotations.json").write_text(json.dumps(rows))


def encoded() -> bytes:
    """Returns a clip of half a second."""
    target = io.BytesIO()
    texture = np.random.default_rng(0).integers(0, 256, (30, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(8):
            frame = np.ascontiguousarray(texture[:, number * 8 : number * 8 + 320])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


@contextlib.asynccontextmanager
async def sampled() -> AsyncGenerator[Peaks, None]:
    """Samples memory while the block runs."""
    peaks = Peaks()

    async def sample() -> None:
        while True:
            await asyncio.to_thread(peaks.sample)
            await asyncio.sleep(_SAMPLE_SECONDS)

    sampling = asyncio.create_task(sample())
    try:
        yield peaks
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


def _name(process: psutil.Process) -> str:
    """What a process of the mesh is called in the figures; empty for those that no clip goes through."""
    command = process.cmdline()
    line = " ".join(command)
    if "catalog_svc.probe.child" in line:
        return "probe"
    if command[-1:] == ["catalog_svc"]:
        return "catalog"
    if "envoy" in Path(command[0] if command else "").name:
        return "envoy"
    # Postgres maps its shared buffers into every backend, and no clip goes through it.
    return "store" if "weed" in Path(command[0] if command else "").name else ""


if __name__ == "__main__":
    sizes = [float(each) for each in sys.argv[1:3]] or [1.0, 4.0]
    asyncio.run(main(*sizes))
