"""Annotation files that are one endless line: refused, in bounded memory, whatever their size.

Up to the largest annotation file that is read, the line is an issue of its row; a longer file is refused by its size
before a byte of it is read; and of an address that never ends no more is taken than may be stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, import_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import import_service_pb2 as im
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.import_service_pb2_grpc import ImportServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub

from catalog_svc.domain.annotations import MAX_FILE_BYTES
from tests.integration.catalog.catalog_process import MIB, Peers, Start, create, upload, watch
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.web_source import web_source

LINE_MIB = int(os.environ.get("REELTUNE_LINE_MIB", "160"))
"""Above 511 it is the size that is refused; 2048 takes a minute or two, and no more memory."""
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
    reason = "ROW_TOO_LONG" if LINE_MIB * MIB < MAX_FILE_BYTES else "ANNOTATIONS_TOO_LARGE"
    assert [issue.file for issue in issues if issue.reason == reason] == [name], issues
    print(f"{name}: a line of {LINE_MIB} MiB, {(highest - before) / MIB:.0f} MiB more memory")  # noqa: T201  # for runs by hand
    assert highest - before < MOST_GROWTH, (highest - before) / MIB


@pytest.mark.parametrize("kind", ["url", "annotations"])
async def test_of_an_address_that_never_ends_no_more_is_taken_than_may_be_stored(
    start: Start, peers: Peers, tmp_path: Path, kind: str
) -> None:
    most = 96 * MIB
    user = peers.user()
    async with web_source() as web:
        address = web.url("/rows.csv")
        catalog = await start(
            CATALOG_IMPORT_TEST_HOSTS=web.host, CATALOG_MAX_FILE_BYTES=str(most), CATALOG_IMPORT_TRIES="1"
        )
        imports = ImportServiceStub(catalog.channel)
        dataset_id = await create(catalog, user)
        web.endless["/rows.csv"] = b"video,caption\na.mp4,"
        source = (
            import_pb2.ImportSource(url=import_pb2.UrlSource(url=address))
            if kind == "url"
            else import_pb2.ImportSource(annotations=import_pb2.AnnotationSource(url=address))
        )
        service = psutil.Process(catalog.process.pid)
        before, highest = service.memory_info().rss, 0

        async def ended() -> import_pb2.Import:
            begun = await imports.CreateImport(
                im.CreateImportRequest(parent_id=dataset_id, source=source), metadata=user
            )
            request = im.WatchImportRequest(import_id=begun.data_import.id)
            messages = [each async for each in imports.WatchImport(request, metadata=user, timeout=120)]
            return messages[-1].data_import

        work = asyncio.create_task(ended())
        while not work.done():
            highest = max(highest, service.memory_info().rss)
            await asyncio.wait({work}, timeout=0.05)

        failed = await work
        errors = await imports.ListImportErrors(im.ListImportErrorsRequest(import_id=failed.id), metadata=user)
        files = us.ListFilesRequest(parent_id=dataset_id)
        stored = await UploadServiceStub(catalog.channel).ListFiles(files, metadata=user)
    assert failed.state == import_pb2.IMPORT_STATE_FAILED if kind == "annotations" else True, failed
    assert [(error.path, error.reason) for error in errors.errors] == [("rows.csv", "FILE_TOO_LARGE")]
    assert list(stored.files) == []
    assert most <= web.endless_bytes < most + 32 * MIB, "what was under way when it was cut off"
    assert highest - before < most / 2, (highest - before) / MIB
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 0, "nothing is left over"


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
