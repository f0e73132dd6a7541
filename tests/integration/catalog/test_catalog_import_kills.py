"""An import in a process of its own: killed in the middle and finished once, and large in little memory."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
from reeltune.catalog.v1 import import_pb2
from reeltune.catalog.v1 import import_service_pb2 as im
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.import_service_pb2_grpc import ImportServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub

from tests.integration.catalog.catalog_process import MIB, Peers, Start, create, upload
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.web_source import web_source


async def test_an_import_survives_kill_9_and_puts_each_file_in_place_once(start: Start, peers: Peers) -> None:
    user = peers.user()
    async with web_source() as web:
        web.files = {f"/{number}.mp4": h264_clip(number) for number in range(8)}
        settings = {"CATALOG_IMPORT_TEST_HOSTS": web.host, "CATALOG_IMPORT_LEASE_SECONDS": "2"}
        # A file is in place, and its death comes before anybody has noted it.
        first = await start(**settings, REELTUNE_FAILPOINTS="import.file.stored=kill:4")
        dataset_id = await create(first, user)
        rows = "".join(f"{web.url(path)},A bar.\n" for path in web.files)
        await upload(first, dataset_id, "annotations.csv", f"video,caption\n{rows}".encode(), user)
        source = import_pb2.ImportSource(annotations=import_pb2.AnnotationSource(file="annotations.csv"))
        request = im.CreateImportRequest(parent_id=dataset_id, source=source)
        begun = await ImportServiceStub(first.channel).CreateImport(request, metadata=user)
        async with asyncio.timeout(60):
            assert await first.process.wait() == -signal.SIGKILL

        second = await start(**settings)
        watch_request = im.WatchImportRequest(import_id=begun.data_import.id)
        stream = ImportServiceStub(second.channel).WatchImport(watch_request, metadata=user, timeout=90)
        done = [message.data_import async for message in stream][-1]
        assert done.state == import_pb2.IMPORT_STATE_COMPLETED, done
        assert (done.counts.files, done.counts.files_done) == (8, 8)
        assert done.counts.bytes_done == sum(map(len, web.files.values()))
        assert set(web.requests) == set(web.files)
        listed = await UploadServiceStub(second.channel).ListFiles(
            us.ListFilesRequest(parent_id=dataset_id), metadata=user
        )
        assert len(listed.files) == 9


async def test_a_large_import_takes_little_memory(start: Start, peers: Peers) -> None:
    user = peers.user()
    async with web_source() as web:
        web.files = {"/warm.mp4": os.urandom(20 * MIB), "/big.mp4": os.urandom(96 * MIB)}
        catalog = await start(CATALOG_IMPORT_TEST_HOSTS=web.host)
        dataset_id = await create(catalog, user)
        stub = ImportServiceStub(catalog.channel)

        async def imported(path: str) -> None:
            source = import_pb2.ImportSource(url=import_pb2.UrlSource(url=web.url(path)))
            request = im.CreateImportRequest(parent_id=dataset_id, source=source)
            begun = (await stub.CreateImport(request, metadata=user)).data_import
            watched = stub.WatchImport(im.WatchImportRequest(import_id=begun.id), metadata=user, timeout=120)
            last = [message.data_import async for message in watched][-1]
            assert last.state == import_pb2.IMPORT_STATE_COMPLETED, last

        await imported("/warm.mp4")
        process = psutil.Process(catalog.process.pid)
        before, highest = process.memory_info().rss, 0
        work = asyncio.create_task(imported("/big.mp4"))
        while not work.done():
            highest = max(highest, process.memory_info().rss)
            await asyncio.wait({work}, timeout=0.05)
        await work
        assert highest - before < 60 * MIB, (highest - before) / MIB
