"""`preview`: what a user waits for a warm preview, against the bare processor on the same samples in its own process.

Both decode 8 frames of the same clips, render the template and make the tensors; ours goes through the edge, the
catalog with its queries, the model tool in its sandbox and 8 JPEGs, one call after the other, each sample in turn. The
ratio is that of the medians. The list of samples is compared, too: `ListSamples` through the edge, 100 samples a page
with their clips, against the two queries behind it asked directly.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1.sample_service_pb2 import GetSamplePreviewRequest

from benchmarks.mesh_material import BenchMesh, bench_mesh
from benchmarks.report import Result, print_result
from catalog_svc.store.queries import queries

CLIPS, ROUNDS = 60, 2
LISTS = 100
GOAL = 4.0
BARE = "--bare"


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        mesh = await stack.enter_async_context(bench_mesh(work, "--no-trainer", clips=CLIPS))
        ids = await sample_ids(mesh)
        first = time.perf_counter()
        await preview(mesh, ids[0])
        cold = time.perf_counter() - first
        for sample_id in ids:  # the clips come to the catalog's disk
            await preview(mesh, sample_id)
        ours = await measured(lambda sample_id: preview(mesh, sample_id), ids * ROUNDS)
        bare = await bare_seconds(work / "model", work / "dataset")
        lists = await measured(lambda _: list_page(mesh), ids[:1] * LISTS)
        direct = await direct_lists(mesh)
    figures = {
        **percentiles("preview", ours),
        **percentiles("bare", bare),
        **percentiles("list", lists),
        **percentiles("direct_list", direct),
        "preview_after_the_models_forward_check_seconds": cold,
        "list_ratio": statistics.median(lists) / statistics.median(direct),
        "p99_ratio": p99(ours) / p99(bare),
    }
    ratio = statistics.median(ours) / statistics.median(bare)
    print_result(Result("preview", ratio, GOAL, higher_is_better=False, figures=figures))


async def sample_ids(mesh: BenchMesh) -> list[str]:
    """One sample of each clip: the dataset asks about each twice."""
    request = content.ListSamplesRequest(dataset_id=mesh.dataset_id, page_size=1000)
    found: dict[str, str] = {}
    for sample in (await mesh.client.datasets.ListSamples(request)).samples:
        clip = next(part.video.path for part in sample.messages[0].content if part.HasField("video"))
        found.setdefault(clip, sample.sample_id)
    return list(found.values())


async def preview(mesh: BenchMesh, sample_id: str) -> object:
    """One preview through the edge."""
    request = GetSamplePreviewRequest(dataset_id=mesh.dataset_id, sample_id=sample_id, model_id=mesh.model_id)
    return await mesh.client.samples.GetSamplePreview(request, timeout=120)


async def list_page(mesh: BenchMesh) -> object:
    """One page of samples through the edge."""
    request = content.ListSamplesRequest(dataset_id=mesh.dataset_id, page_size=100)
    return await mesh.client.datasets.ListSamples(request)


async def measured(call: Callable[[str], Awaitable[object]], arguments: Sequence[str]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for argument in arguments:
        began = time.perf_counter()
        await call(argument)
        seconds.append(time.perf_counter() - began)
    return seconds


async def direct_lists(mesh: BenchMesh) -> list[float]:
    """Seconds that the database takes for the same page."""
    connection = await asyncpg.connect(mesh.postgres.dsn())
    try:
        await connection.execute("SET search_path = catalog")
        owner = await connection.fetchval("SELECT owner_id FROM entries WHERE id = $1", mesh.dataset_id)

        async def page(_: str) -> object:
            rows = await connection.fetch(queries().list_samples, mesh.dataset_id, owner, None, 0, "", 101, "")
            videos = [
                part["video"]["path"]
                for row in rows
                for turn in json.loads(row["messages"])
                for part in turn["content"]
                if "video" in part
            ]
            return await connection.fetch(queries().find_clips, mesh.dataset_id, owner, None, sorted(set(videos)))

        return await measured(page, [""] * LISTS)
    finally:
        await connection.close()


async def bare_seconds(model: Path, dataset: Path) -> list[float]:
    """Seconds of each sample in a process that has nothing else to do."""
    command = (sys.executable, "-m", "benchmarks.preview", BARE, str(model), str(dataset))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        sys.exit("the bare processor failed")
    seconds: list[float] = json.loads(said.splitlines()[-1])
    return seconds


def bare(model: Path, dataset: Path) -> None:
    """Prints the seconds that decoding and encoding of each sample take."""
    from trainer_svc.qlora.quiet import quiet_libraries, quiet_transformers

    quiet_libraries(threads=1)
    import torch

    from trainer_svc.qlora.data_processor import DataProcessor
    from trainer_svc.qlora.dataset_rows import load_samples
    from trainer_svc.qlora.frame_decoder import make_decoder
    from trainer_svc.qlora.processor_loader import load_processor
    from trainer_svc.qlora.spec import SamplingSpec

    quiet_transformers()
    torch.set_num_threads(1)
    processor, decoder, sampling = DataProcessor(load_processor(model)), make_decoder("auto"), SamplingSpec()
    seconds = []
    for sample in load_samples(dataset) * (ROUNDS + 1):
        began = time.perf_counter()
        processor.encode(sample, [decoder.decode(clip.path, clip.frame_request(sampling)) for clip in sample.clips])
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[len(seconds) // (ROUNDS + 1) :]))


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {
        f"{name}_p50_milliseconds": statistics.median(seconds) * 1e3,
        f"{name}_p99_milliseconds": p99(seconds) * 1e3,
    }


def p99(seconds: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


if __name__ == "__main__":
    if sys.argv[1:2] == [BARE]:
        bare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        asyncio.run(main())
