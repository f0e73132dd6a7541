"""`register_rows`: a dataset of 100,000 rows from ValidateDataset to READY, against 60 s.

All rows ask about the same few clips, which are decoded in the time. Each row has a question and an answer of its own;
ours reads the CSV file as a stream, checks each row, makes ids and a fingerprint, and writes the samples to Postgres in
one transaction. The time is what a client sees. The ratio is that time to 60 s. The service's resident memory is
sampled meanwhile, and before that for a dataset of 10,000 rows: a flat curve has the two peaks side by side.
"""

from __future__ import annotations

import asyncio
import csv
import secrets
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import sample_service_pb2 as samples

from benchmarks.catalog_memory import CatalogMemory
from benchmarks.mesh_material import run_python
from benchmarks.report import Result, print_result
from reeltune_cli.client.connection import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset
from reeltune_cli.stack.background import background_mesh

FEW, MANY = 10_000, 100_000
CLIPS = 4
GOAL_SECONDS = 60.0


async def main() -> None:
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        await run_python("-m", "benchmarks.tiny_material", str(work / "model"), str(work / "material"), str(CLIPS))
        endpoint = await stack.enter_async_context(background_mesh(work / "home", "--no-trainer"))
        client = await stack.enter_async_context(Client(endpoint))
        await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
        async with CatalogMemory() as few:
            few_seconds, _ = await registered(client, work, FEW)
        async with CatalogMemory() as many:
            seconds, dataset_id = await registered(client, work, MANY)
        began = time.perf_counter()
        request = samples.GetDatasetStatisticsRequest(dataset_id=dataset_id)
        await client.samples.GetDatasetStatistics(request, timeout=120)
        statistics_seconds = time.perf_counter() - began
    figures = {
        "rows_100k_seconds": seconds,
        "rows_10k_seconds": few_seconds,
        "rows_per_second": MANY / seconds,
        "service_peak_100k_mib": many.service_peak_mib,
        "service_peak_10k_mib": few.service_peak_mib,
        "statistics_of_100k_rows_seconds": statistics_seconds,
    }
    print_result(Result("register_rows", seconds / GOAL_SECONDS, 1.0, higher_is_better=False, figures=figures))


async def registered(client: Client, work: Path, rows: int) -> tuple[float, str]:
    """Uploads a dataset of so many rows; returns the seconds from ValidateDataset to READY, and its id."""
    folder = work / f"rows-{rows}"
    (folder / "clips").mkdir(parents=True)
    clips = sorted((work / "material").rglob("*.mp4"))[:CLIPS]
    for clip in clips:
        shutil.copy(clip, folder / "clips" / clip.name)
    with (folder / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "question", "answer", "split"))
        for number in range(rows):
            clip = clips[number % len(clips)].name
            writer.writerow((f"clips/{clip}", f"What is number {number}?", f"It is shape {number * 7}.", "train"))
    dataset_id = (await client.datasets.CreateDataset(ds.CreateDatasetRequest(name=folder.name))).dataset.id
    await upload_folder(client, dataset_id, folder)
    began = time.perf_counter()
    await client.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id))
    last = [dataset async for dataset in watch_dataset(client, dataset_id)][-1]
    seconds = time.perf_counter() - began
    assert (last.state, last.counts.rows) == (dataset_pb2.DATASET_STATE_READY, rows), last
    return seconds, dataset_id


if __name__ == "__main__":
    asyncio.run(main())
