"""All hostile files in one dataset of a running service, whose memory is watched meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

import psutil
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub

from tests.integration.catalog.catalog_process import MIB, Peers, Start, create, upload, watch
from tests.rpc.catalog.clips import real_clips
from tests.rpc.catalog.hostile_clips import HOSTILE

CHILD_BYTES = 1536 * MIB
SERVICE_GROWTH = 150 * MIB
CHILD_RSS = 500 * MIB


async def test_hostile_files_are_issues_of_their_rows_and_memory_stays_bounded(start: Start, peers: Peers) -> None:
    catalog = await start(
        CATALOG_DECODE_SECONDS="6",
        CATALOG_DECODE_PROCESSES="8",
        CATALOG_DECODE_CHILD_BYTES=str(CHILD_BYTES),
        CATALOG_DECODE_MEMORY_BYTES=str(2 * CHILD_BYTES),
    )
    user = peers.user()
    stub = DatasetServiceStub(catalog.channel)
    dataset_id = await create(catalog, user)
    paths = {f"clips/{name}.mp4": case for name, case in HOSTILE.items()}
    rows = "".join(f'"{path}",A bar.\n' for path in paths)
    await upload(catalog, dataset_id, "annotations.csv", f"video,caption\n{rows}".encode(), user)
    for path, (make, _) in paths.items():
        await upload(catalog, dataset_id, path, make(), user)

    service = psutil.Process(catalog.process.pid)
    before, highest, largest_child, most_children = service.memory_info().rss, 0, 0, 0
    await stub.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id), metadata=user)
    work = asyncio.create_task(watch(catalog, dataset_id, user))
    while not work.done():
        highest = max(highest, service.memory_info().rss)
        children = service.children()
        most_children = max(most_children, len(children))
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                largest_child = max(largest_child, child.memory_info().rss)
        await asyncio.wait({work}, timeout=0.05)
    checked = await work

    assert checked.state == dataset_pb2.DATASET_STATE_ERROR
    request = content.ListDatasetIssuesRequest(dataset_id=dataset_id, page_size=1000)
    listed = (await stub.ListDatasetIssues(request, metadata=user)).issues
    found = {issue.file: issue for issue in listed if issue.severity == dataset_pb2.ISSUE_SEVERITY_ERROR}
    for number, (path, (_, reasons)) in enumerate(paths.items(), start=1):
        assert (found[path].reason if path in found else "") in reasons, (path, found.get(path))
        assert path not in found or (found[path].row == number and found[path].remedy)
    assert highest - before < SERVICE_GROWTH, (highest - before) / MIB
    assert largest_child < CHILD_RSS, largest_child / MIB
    assert most_children == 2, "as many as fit into the budget of memory, though 8 processes were allowed"

    # And it goes on as if nothing had been.
    request_ = ds.CreateDatasetRequest(name="sound")
    sound = (await stub.CreateDataset(request_, metadata=user)).dataset.id
    clip = real_clips()["carphone_pristine.mp4"]
    await upload(catalog, sound, "annotations.csv", b"video,caption\na.mp4,A man talks.\n", user)
    await upload(catalog, sound, "a.mp4", clip, user)
    await stub.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=sound), metadata=user)
    assert (await watch(catalog, sound, user)).state == dataset_pb2.DATASET_STATE_READY
