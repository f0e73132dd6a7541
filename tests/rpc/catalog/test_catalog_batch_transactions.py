"""Batches of uploads go by one transaction each, and are in all that lasts what as many single calls would be."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re

import pytest
import structlog
from reeltune.catalog.v1 import usage_service_pb2
from reeltune.scheduler.v1 import quota_pb2

from catalog_svc.clients.object_store import BytesMissing, Digest
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.errors import UploadNotFound
from catalog_svc.domain.upload import Upload, UploadId
from catalog_svc.store.file_batch_store import FileBatchStore
from catalog_svc.store.queries import queries
from catalog_svc.usecases import upload_by_parts
from catalog_svc.usecases.settle_upload import SettleUpload
from catalog_svc.usecases.upload_by_parts import UploadByParts
from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, Start
from tests.rpc.catalog.small_scheduler import SmallScheduler
from tests.rpc.catalog.test_catalog_upload_batches import complete, create, reason, wanted


async def sent(mesh: CatalogMesh, parent_id: str, files: dict[str, bytes]) -> list[str]:
    """Announces files together and puts their bytes; returns the uploads' ids."""
    results = await create(mesh, [wanted(parent_id, path, data) for path, data in files.items()])
    assert all(result.HasField("upload") for result in results)
    await asyncio.gather(*(mesh.put_parts(result.upload, files[result.path]) for result in results))
    return [result.upload.id for result in results if not result.upload.complete]


async def usage(mesh: CatalogMesh) -> usage_service_pb2.Usage:
    response = await mesh.usage.GetMyUsage(usage_service_pb2.GetMyUsageRequest(), metadata=mesh.as_user())
    return response.usage


def files_of(count: int, size: int = 100) -> dict[str, bytes]:
    return {f"{number:02}.mp4": os.urandom(size) for number in range(count)}


async def test_a_batch_is_one_change_of_its_dataset(mesh: CatalogMesh) -> None:
    dataset, files = await mesh.create_dataset(), files_of(40)
    before = await mesh.pool.fetchval("SELECT revision FROM entries WHERE id = $1", dataset.id)
    ids = await sent(mesh, dataset.id, files)
    found = await usage(mesh)
    assert (found.stored_bytes, found.pending_bytes) == (0, 4000)
    await complete(mesh, ids)
    row = await mesh.pool.fetchrow("SELECT * FROM entries WHERE id = $1", dataset.id)
    assert (row["revision"], row["file_count"], row["size_bytes"]) == (before + 1, 40, 4000)
    found = await usage(mesh)
    assert (found.stored_bytes, found.stored_files, found.pending_bytes) == (4000, 40, 0)
    soon = "now() + interval '34 minutes'"
    late = f"SELECT count(*) FROM garbage WHERE late_bytes = 100 AND held_bytes = 0 AND due_time > {soon}"
    assert await mesh.pool.fetchval(late) == 40, "what their addresses may still write is looked after"
    # Into another dataset they go without being sent, by one call and as one change.
    other = await mesh.create_dataset("other")
    assert await sent(mesh, other.id, files) == []
    assert await mesh.paths(other.id) == list(files)
    assert await mesh.pool.fetchval("SELECT revision FROM entries WHERE id = $1", other.id) == before + 1
    assert (await usage(mesh)).stored_bytes == 4000


async def test_files_that_were_there_are_recorded_even_if_the_caller_goes_away(
    mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await mesh.create_dataset("first"), await mesh.create_dataset("second")
    files = files_of(20)
    await complete(mesh, await sent(mesh, first.id, files))
    opened = asyncio.Event()

    async def never_goes_on(name: str) -> None:
        if name == "upload.opened":
            opened.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(upload_by_parts, "failpoint", never_goes_on)
    with structlog.testing.capture_logs() as logs:
        requests = [wanted(second.id, path, data) for path, data in files.items()]
        call = asyncio.create_task(create(mesh, requests))
        await asyncio.wait_for(opened.wait(), 60)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    stored = [log["path"] for log in logs if log["event"] == "audit.dataset_file_stored"]
    assert sorted(stored) == await mesh.paths(second.id) == list(files)


async def test_batches_of_the_same_bytes_in_other_orders_do_not_block_each_other(mesh: CatalogMesh) -> None:
    files = files_of(32)
    backwards = dict(reversed(files.items()))
    datasets = [await mesh.create_dataset(f"set {number}") for number in range(6)]
    orders = [files if number % 2 else backwards for number in range(6)]
    batches = await asyncio.gather(
        *(sent_again(mesh, dataset.id, order) for dataset, order in zip(datasets, orders, strict=True))
    )
    results = await asyncio.gather(*(complete(mesh, ids) for ids in batches))
    assert all(result.HasField("file") for batch in results for result in batch)
    for dataset in datasets:
        assert await mesh.paths(dataset.id) == list(files)
        assert await mesh.pool.fetchval("SELECT revision FROM entries WHERE id = $1", dataset.id) == 2, "all at once"
    found = await usage(mesh)
    assert (found.stored_bytes, found.stored_files, found.pending_bytes) == (3200, 32, 0)


async def sent_again(mesh: CatalogMesh, parent_id: str, files: dict[str, bytes]) -> list[str]:
    """Sends files that others may be sending, too."""
    results = await create(mesh, [wanted(parent_id, path, data) for path, data in files.items()])
    for result in results:
        (part,) = result.upload.parts
        response = await mesh.http.put(part.url, content=files[result.path], headers=dict(part.headers))
        assert response.status_code in (200, 412), response.text
    return [result.upload.id for result in results]


async def test_a_batch_that_is_completed_twice_at_once_is_completed_once(mesh: CatalogMesh) -> None:
    dataset, files = await mesh.create_dataset(), files_of(20)
    ids = await sent(mesh, dataset.id, files)
    outcomes = await asyncio.gather(
        *(complete(mesh, ids[start:]) for start in (0, 5, 0, 10)), *(mesh.complete(ids[number]) for number in (0, 19))
    )
    assert all(result.HasField("file") for batch in outcomes[:4] for result in batch)
    assert await mesh.paths(dataset.id) == list(files)
    row = await mesh.pool.fetchrow("SELECT * FROM entries WHERE id = $1", dataset.id)
    assert (row["file_count"], row["size_bytes"]) == (20, 2000)
    assert (await usage(mesh)).pending_bytes == 0


async def test_what_does_not_fit_together_is_told_file_by_file(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    ids = await sent(mesh, dataset.id, {"a.mp4": b"1", "b": b"2", "b/c.mp4": b"3", "d.mp4": b"4"})
    outcomes = [
        result.file.path if result.HasField("file") else reason(result.error) for result in await complete(mesh, ids)
    ]
    assert outcomes == ["a.mp4", "b", "FIELD_INVALID", "d.mp4"]
    assert await mesh.paths(dataset.id) == ["a.mp4", "b", "d.mp4"]
    twice = [wanted(dataset.id, "e.mp4", data) for data in (b"5", b"6")]
    first, second = await create(mesh, twice)
    await asyncio.gather(mesh.put_parts(first.upload, b"5"), mesh.put_parts(second.upload, b"6"))
    assert [result.file.path for result in await complete(mesh, [first.upload.id, second.upload.id])] == ["e.mp4"] * 2
    row = await mesh.pool.fetchrow("SELECT * FROM entries WHERE id = $1", dataset.id)
    assert (row["file_count"], row["size_bytes"]) == (4, 4)


async def test_a_fault_of_our_own_in_a_batch_costs_no_file_and_leaves_its_stack(
    mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise AttributeError("ours")

    for step in ("open_uploads", "commit"):
        monkeypatch.setattr(FileBatchStore, step, broken)
    dataset, files = await mesh.create_dataset(), files_of(2)
    with structlog.testing.capture_logs() as logs:
        results = await complete(mesh, await sent(mesh, dataset.id, files))
    assert all(result.HasField("file") for result in results)
    told = [entry["exc_info"] for entry in logs if entry["event"] == "upload.batch_split"]
    assert len(told) == 2
    assert all(isinstance(error, AttributeError) and error.__traceback__ for error in told)


async def test_a_batch_puts_files_in_the_place_of_others(mesh: CatalogMesh) -> None:
    dataset, old, new = await mesh.create_dataset(), files_of(8), files_of(12, size=150)
    await complete(mesh, await sent(mesh, dataset.id, old))
    await complete(mesh, await sent(mesh, dataset.id, new))
    row = await mesh.pool.fetchrow("SELECT * FROM entries WHERE id = $1", dataset.id)
    assert (row["file_count"], row["size_bytes"]) == (12, 1800)
    due = await mesh.pool.fetch("SELECT object_key FROM garbage WHERE kind = 'CONTENT' AND late_bytes = 0")
    keys = {f"contents/{ALICE}/{hashlib.sha256(data).hexdigest()}" for data in old.values()}
    assert {row["object_key"] for row in due} <= keys  # the collector may have come by already

    async def are_gone() -> bool:
        return (await usage(mesh)).stored_bytes == 1800

    await assert_eventually(are_gone)


async def test_one_of_a_batch_that_was_not_sent_or_is_not_right_keeps_no_other(
    mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, files = await mesh.create_dataset(), files_of(6)
    ids = await sent(mesh, dataset.id, files)
    missing, wrong = (f"contents/{ALICE}/{hashlib.sha256(files[path]).hexdigest()}" for path in ("01.mp4", "04.mp4"))
    sent_digest = mesh.stores.objects.sent_digest

    async def other_digest(upload: Upload) -> Digest | None:
        if upload.place.object_key == missing:
            raise BytesMissing
        return Digest(1, "0" * 64) if upload.place.object_key == wrong else await sent_digest(upload)

    with monkeypatch.context() as patched:
        patched.setattr(mesh.stores.objects, "sent_digest", other_digest)
        results = await complete(mesh, ids)
    outcomes = [reason(result.error) if result.HasField("error") else "" for result in results]
    assert outcomes == ["", "UPLOAD_INCOMPLETE", "", "", "DIGEST_MISMATCH", ""]
    assert await mesh.paths(dataset.id) == [path for path in files if path not in ("01.mp4", "04.mp4")]


async def test_a_file_that_the_store_is_slow_to_tell_of_keeps_no_other(
    mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, files = await mesh.create_dataset(), files_of(20)
    ids = await sent(mesh, dataset.id, files)
    slow = f"contents/{ALICE}/{hashlib.sha256(files['07.mp4']).hexdigest()}"
    unproven = f"contents/{ALICE}/{hashlib.sha256(files['08.mp4']).hexdigest()}"
    told, sent_digest, read_digest = asyncio.Event(), mesh.stores.objects.sent_digest, mesh.stores.objects.read_digest

    async def digest_in_time(upload: Upload) -> Digest | None:
        if upload.place.object_key == slow:
            await told.wait()
        return None if upload.place.object_key == unproven else await sent_digest(upload)

    async def read_in_time(place: ContentPlace) -> Digest:
        await told.wait()
        return await read_digest(place)

    monkeypatch.setattr(mesh.stores.objects, "sent_digest", digest_in_time)
    monkeypatch.setattr(mesh.stores.objects, "read_digest", read_in_time)
    call = asyncio.create_task(complete(mesh, ids))

    async def others_are_there() -> bool:
        return await mesh.paths(dataset.id) == [path for path in files if path not in ("07.mp4", "08.mp4")]

    await assert_eventually(others_are_there)
    told.set()
    assert [result.file.path for result in await call] == list(files)
    assert await mesh.paths(dataset.id) == list(files)


async def test_batches_that_were_not_sent_leave_the_store_to_others(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await start(s3_threads=4)
    datasets = [await mesh.create_dataset(f"set {number}") for number in range(3)]
    batches = [
        await create(mesh, [wanted(dataset.id, path, data) for path, data in files_of(40).items()])
        for dataset in datasets
    ]
    sent_digest, looks, under_way, at_most = mesh.stores.objects.sent_digest, 0, 0, 0

    async def counted(upload: Upload) -> Digest | None:
        nonlocal looks, under_way, at_most
        looks, under_way = looks + 1, under_way + 1
        at_most = max(at_most, under_way)
        try:
            return await sent_digest(upload)
        finally:
            under_way -= 1

    async def one_by_one(upload_id: UploadId, owner_id: str) -> Upload:
        raise AssertionError(f"{upload_id} of {owner_id} is looked for by itself")

    monkeypatch.setattr(mesh.stores.objects, "sent_digest", counted)
    monkeypatch.setattr(mesh.stores.files, "get_upload", one_by_one)
    answers = await asyncio.gather(*(complete(mesh, [result.upload.id for result in batch]) for batch in batches))
    assert {reason(result.error) for answer in answers for result in answer} == {"UPLOAD_INCOMPLETE"}
    assert (looks, at_most) == (120, 2), "each once, and by half the threads"


async def test_a_batch_without_files_to_look_at_waits_for_no_turn(mesh: CatalogMesh) -> None:
    turns = asyncio.Semaphore(0)
    settle = SettleUpload(
        mesh.stores.files, mesh.stores.file_batches, mesh.stores.garbage, mesh.stores.objects, slots=turns, looks=turns
    )
    by_parts = UploadByParts(
        mesh.stores.files, mesh.stores.file_batches, mesh.stores.objects, settle, 1000, mesh.stores.scheduler, turns
    )
    (outcome,) = await asyncio.wait_for(by_parts.complete_many(ALICE, [UploadId(new_id("upl"))]), 60)
    assert isinstance(outcome, UploadNotFound)


async def test_a_batch_sent_the_other_way_takes_the_place_of_what_was_announced(mesh: CatalogMesh) -> None:
    dataset, files = await mesh.create_dataset(), files_of(5)
    staged = await create(mesh, [wanted(dataset.id, p, data, accepts_headers=False) for p, data in files.items()])
    direct = await create(mesh, [wanted(dataset.id, p, data) for p, data in files.items()])
    again = await create(mesh, [wanted(dataset.id, p, data) for p, data in files.items()])
    assert [result.upload.id for result in direct] == [result.upload.id for result in again]
    assert {result.upload.id for result in direct}.isdisjoint(result.upload.id for result in staged)
    assert await mesh.pool.fetchval("SELECT count(*) FROM uploads") == 5
    assert (await usage(mesh)).pending_bytes == 500


async def test_of_a_batch_beyond_the_quota_comes_as_much_as_fits(start: Start, serve: Serve) -> None:
    scheduler = SmallScheduler()
    scheduler.quotas[ALICE] = quota_pb2.Quota(storage_bytes=1000)
    served = await serve(scheduler.registrations)
    mesh = await start(scheduler=served.address)
    dataset = await mesh.create_dataset()
    results = await create(mesh, [wanted(dataset.id, path, data) for path, data in files_of(4, size=300).items()])
    refused = [reason(result.error) for result in results if result.HasField("error")]
    assert refused == ["QUOTA_EXCEEDED"]
    assert (await usage(mesh)).pending_bytes == 900


_FILL = """
INSERT INTO files (entry_id, path, sha256, size_bytes, object_key)
SELECT $1, 'clips/' || n, md5(n::text), 1, 'contents/usr_alice/' || md5(n::text) FROM generate_series(1, 20000) n
"""
_FILL_PROBES = "INSERT INTO clip_probes (dataset_id, sha256) SELECT entry_id, sha256 FROM files WHERE entry_id = $1"


async def test_a_batch_reads_no_more_of_a_large_dataset_than_it_brings(mesh: CatalogMesh) -> None:
    """Whatever Postgres knows of the tables: it may have read no statistics of them since they were empty."""
    dataset, numbers = await mesh.create_dataset(), range(32)
    await mesh.pool.execute(_FILL, dataset.id)
    await mesh.pool.execute(_FILL_PROBES, dataset.id)
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in numbers]
    asked: list[tuple[str, tuple[object, ...]]] = [
        (
            queries().find_path_conflicts,
            (dataset.id, [f"new/{n}/a" for n in numbers], ["new", *(f"new/{n}" for n in numbers)]),
        ),
        (queries().forget_probes_of_new_places, (dataset.id, digests, [f"contents/{ALICE}/{d}" for d in digests])),
        (queries().find_files, (dataset.id, [f"new/{n}" for n in numbers])),
        (queries().find_path_conflict, (dataset.id, "new/1/a", ["new", "new/1"])),
        (queries().forget_probe_of_new_place, (dataset.id, digests[0], None, f"contents/{ALICE}/{digests[0]}")),
        (queries().forget_probe_of_new_place, (dataset.id, digests[0], new_id("loc"), "clips/a.mp4")),
    ]
    async with mesh.pool.acquire() as connection:
        for is_analyzed in (False, True):
            if is_analyzed:
                await connection.execute("ANALYZE files, clip_probes")
            for mode in ("force_custom_plan", "force_generic_plan"):
                await connection.execute(f"SET plan_cache_mode = {mode}")
                for query, arguments in asked:
                    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN ANALYZE {query}", *arguments))
                    counts = re.findall(r"actual time=\S+ rows=([0-9]+)|Removed by Filter: ([0-9]+)", plan)
                    assert max(int(rows or removed) for rows, removed in counts) < 1000, plan
        await connection.execute("RESET plan_cache_mode")
