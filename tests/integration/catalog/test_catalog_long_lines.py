"""Annotation files that are one endless line: refused by row, in bounded memory, whatever their size."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import psutil
import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub

from tests.integration.catalog.catalog_process import MIB, Peers, Start, create, upload, watch
from tests.rpc.catalog.clips import h264_clip

LINE_MIB = int(os.environ.get("REELTUNE_LINE_MIB", "160"))
"""2048 takes a minute or two, and no more memory."""
MOST_GROWTH = 120 * MIB


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "head"),
    [("annotations.csv", b"video,caption\na.mp4,"), ("annotations.jsonl", b'{"video": "a.mp4", "x": "')],
)
async def test_a_line_longer_than_the_memory_allowed_is_an_issue(
    start: Start, peers: Peers, name: str, head: bytes
) -> None:
    catalog = await start()
    user = peers.user()
    stub = DatasetServiceStub(catalog.channel)
    dataset_id = await create(catalog, user)
    await upload(catalog, dataset_id, "a.mp4", h264_clip(), user)
    service = psutil.Process(catalog.process.pid)
    before, highest = service.memory_info().rss, 0

    async def refused() -> dataset_pb2.Dataset:
        await stream(UploadServiceStub(catalog.channel), dataset_id, name, head, user)
        await stub.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id), metadata=user)
        return await watch(catalog, dataset_id, user)

    work = asyncio.create_task(refused())
    while not work.done():
        highest = max(highest, service.memory_info().rss)
        await asyncio.wait({work}, timeout=0.05)

    assert (await work).state == dataset_pb2.DATASET_STATE_ERROR
    request = content.ListDatasetIssuesRequest(dataset_id=dataset_id, page_size=100)
    issues = (await stub.ListDatasetIssues(request, metadata=user)).issues
    assert [issue.file for issue in issues if issue.reason == "ROW_TOO_LONG"] == [name], issues
    print(f"{name}: a line of {LINE_MIB} MiB, {(highest - before) / MIB:.0f} MiB more memory")  # noqa: T201  # for runs by hand
    assert highest - before < MOST_GROWTH, (highest - before) / MIB


async def stream(stub: UploadServiceStub, dataset_id: str, path: str, head: bytes, user: object) -> None:
    """Uploads `head` and a line of `LINE_MIB` that goes on from it, made as it is sent."""
    piece = b"x" * MIB
    digest = hashlib.sha256(head)
    for _ in range(LINE_MIB):
        digest.update(piece)
    size = len(head) + LINE_MIB * MIB

    async def requests() -> AsyncIterator[us.UploadFileRequest]:
        header = us.FileHeader(parent_id=dataset_id, path=path, size_bytes=size, sha256=digest.hexdigest())
        yield us.UploadFileRequest(header=header)
        yield us.UploadFileRequest(chunk=head)
        for _ in range(LINE_MIB):
            yield us.UploadFileRequest(chunk=piece)

    await stub.UploadFile(requests(), metadata=user, timeout=600)
