"""`validate`: a dataset from ValidateDataset to READY, against a bare decord loop over the same clips.

The loop has as many processes as the catalog, decodes every frame (`VideoReader.next`, one thread) from local files and
does nothing else; it is timed without the start of its processes, once before and once after. Ours fetches each clip
from the object store, reads its packets, decodes it in a sandboxed child, hashes it, stores a poster and checks the
rows; the time is what a client sees. The ratio is the loop's time (the mean of both) to ours. Resident memory is
sampled meanwhile: of the service, and of the largest child.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import secrets
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds

from benchmarks.catalog_memory import CatalogMemory
from benchmarks.report import Result, print_result
from reeltune_cli.client.connection import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset
from reeltune_cli.stack.background import background_mesh

ENCODED, COPIES = 4, 8
FRAMES, WIDTH, HEIGHT = 250, 1280, 720
PROCESSES = os.cpu_count() or 1
GOAL = 0.9


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        clips = make_dataset(work / "dataset")
        endpoint = await stack.enter_async_context(background_mesh(work / "home", "--no-trainer"))
        client = await stack.enter_async_context(Client(endpoint))
        await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
        before = await asyncio.to_thread(bare_seconds, clips)
        async with CatalogMemory() as memory:
            ours = await validated(client, work / "dataset")
        after = await asyncio.to_thread(bare_seconds, clips)
    bare = statistics.mean([before, after])
    figures = {
        "ours_seconds": ours,
        "bare_before_seconds": before,
        "bare_after_seconds": after,
        "ours_frames_per_second": len(clips) * FRAMES / ours,
        "processes": float(PROCESSES),
        "clips": float(len(clips)),
        "service_peak_mib": memory.service_peak_mib,
        "service_growth_mib": memory.service_growth_mib,
        "largest_child_peak_mib": memory.child_peak_mib,
    }
    print_result(Result("validate", bare / ours, GOAL, higher_is_better=True, figures=figures))


def make_dataset(folder: Path) -> list[str]:
    """Writes clips of textures that move, 10 s of 720p each, with a row for each; returns their paths."""
    (folder / "clips").mkdir(parents=True)
    paths = []
    for seed in range(ENCODED):
        data = encoded(seed, folder.parent / "clip.mp4")
        for copy in range(COPIES):
            path = folder / "clips" / f"{seed}-{copy}.mp4"
            # A box that players pass over: the same pictures, other bytes, so that each is decoded.
            path.write_bytes(data + (12).to_bytes(4, "big") + b"free" + copy.to_bytes(4, "big"))
            paths.append(str(path))
    rows = [{"video": f"clips/{Path(path).name}", "caption": "Textures move."} for path in paths]
    (folder / "annotations.json").write_text(json.dumps(rows))
    return paths


def encoded(seed: int, path: Path) -> bytes:
    """Returns one clip."""
    chance = np.random.default_rng(seed)
    texture = chance.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "28", "bf": "0"}
        for number in range(FRAMES):
            left = number * 5 % WIDTH
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, left : left + WIDTH]), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path.read_bytes()


async def validated(client: Client, folder: Path) -> float:
    """Uploads the folder; returns the seconds from ValidateDataset to READY."""
    dataset_id = (await client.datasets.CreateDataset(ds.CreateDatasetRequest(name="bench"))).dataset.id
    await upload_folder(client, dataset_id, folder)
    began = time.perf_counter()
    await client.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id))
    last = [dataset async for dataset in watch_dataset(client, dataset_id)][-1]
    assert last.state == dataset_pb2.DATASET_STATE_READY, last
    return time.perf_counter() - began


def bare_seconds(clips: Sequence[str]) -> float:
    """Seconds of the loop, its processes started and decord loaded."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES, initializer=load_decord) as pool:
        pool.map(time.sleep, [0.1] * PROCESSES, chunksize=1)
        began = time.perf_counter()
        counts = pool.map(count_frames, clips, chunksize=1)
        seconds = time.perf_counter() - began
    assert counts == [FRAMES] * len(clips), counts
    return seconds


def load_decord() -> None:
    """Imports what the loop needs."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)


def count_frames(path: str) -> int:
    """Decodes every frame."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    count = 0
    while True:
        try:
            reader.next()
        except StopIteration:
            break
        count += 1
    reader.seek(0)
    return count


if __name__ == "__main__":
    asyncio.run(main())
