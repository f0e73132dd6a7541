"""Objects that nothing refers to, and that no look of the collector would find any more."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
import structlog
from reeltune.catalog.v1 import dataset_service_pb2 as ds

from catalog_svc.clients.object_store import URL_TTL
from catalog_svc.domain.upload import LATE_LOOK
from catalog_svc.usecases import sweep_objects
from catalog_svc.usecases.sweep_objects import SweepObjects
from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from reeltune_cli.stack.edge import EdgeSettings
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, Start, refused

CLIP, OTHER, LATE = b"a clip", b"another clip", b"a late clip"


def key_of(data: bytes) -> str:
    return f"contents/{ALICE}/{hashlib.sha256(data).hexdigest()}"


async def keys(mesh: CatalogMesh) -> list[str]:
    return [item.key for item in await mesh.blobs.list()]


def searching(mesh: CatalogMesh, **other: Any) -> SweepObjects:
    """A search that takes what is a moment old, when it finds it for the second time."""
    at_once = {"older_than": timedelta(), "due_after": timedelta(), "pause": timedelta(hours=1)}
    return SweepObjects(mesh.stores.sweeps, mesh.stores.objects, **{**at_once, **other})


async def passes(mesh: CatalogMesh, search: SweepObjects, number: int = 2) -> int:
    """Has both places looked at several times; returns how many objects were given to the collector."""
    found = 0
    for _ in range(number):
        await mesh.pool.execute("UPDATE sweeps SET due_time = now()")
        found += await search.sweep() + await search.sweep()
    await assert_eventually(lambda: is_collected(mesh))
    return found


async def is_collected(mesh: CatalogMesh) -> bool:
    """What is left are late looks; what is being removed comes again after ten minutes."""
    due = "SELECT count(*) FROM garbage WHERE due_time < now() + interval '11 minutes'"
    return not await mesh.pool.fetchval(due)


async def is_marked(mesh: CatalogMesh) -> bool:
    return bool(await mesh.stores.objects.list_marks())


async def put_orphans(mesh: CatalogMesh, number: int) -> list[str]:
    found = [key_of(f"made {n}".encode()) for n in range(number)]
    for key in found:
        await mesh.blobs.put_bytes(key, b"nobody's")
    return sorted(found)


async def has_no_garbage(mesh: CatalogMesh) -> bool:
    return not await mesh.pool.fetchval("SELECT count(*) FROM garbage")


async def test_what_comes_after_the_last_look_is_found_and_nothing_else_is_touched(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_objects, "_PAGE", 2)
    mesh = await start(sweep_seconds=0.05, sweep_after_hours=0, sweep_due_days=0)
    await assert_eventually(lambda: is_marked(mesh))
    kept, gone = await mesh.create_dataset("kept"), await mesh.create_dataset("gone")
    await mesh.put(kept.id, "a.mp4", CLIP)
    direct = await mesh.open_upload(kept.id, "b.mp4", OTHER, accepts_headers=True)
    staged = await mesh.open_upload(kept.id, "c.mp4", b"staged")
    late = [await mesh.open_upload(gone.id, "d.mp4", LATE, accepts_headers=accepts) for accepts in (True, False)]
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=gone.id), metadata=mesh.as_user())
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")
    await assert_eventually(lambda: has_no_garbage(mesh))

    for upload, data in ((direct, OTHER), (staged, b"staged"), (late[0], LATE), (late[1], LATE)):
        await mesh.put_parts(upload, data)
    for orphan in (
        f"{key_of(b'made')}.poster.jpg",
        *(key_of(bytes([n])) for n in range(4)),
        f"uploads/{new_id('upl')}",
    ):
        await mesh.blobs.put_bytes(orphan, b"nobody's")
    wanted = [f"{key_of(CLIP)}.poster.jpg", "contents/notes.txt", "uploads/notes.txt", "elsewhere/a"]
    for name in wanted:
        await mesh.blobs.put_bytes(name, b"somebody's")
    mark = f"catalogs/{await mesh.stores.sweeps.identity()}"
    expected = sorted([mark, key_of(CLIP), key_of(OTHER), f"uploads/{staged.id}", *wanted])

    async def is_swept() -> bool:
        return await keys(mesh) == expected

    await assert_eventually(is_swept)
    assert (await mesh.complete(direct.id)).path == "b.mp4"
    assert (await mesh.complete(staged.id)).path == "c.mp4"
    assert (await refused(mesh.complete(late[0].id))).reason == "UPLOAD_NOT_FOUND"
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_what_somebody_sends_again_after_it_was_found_stays(mesh: CatalogMesh) -> None:
    dataset = await mesh.create_dataset()
    await mesh.blobs.put_bytes(key_of(CLIP), CLIP)
    upload = await mesh.open_upload(dataset.id, "a.mp4", CLIP, accepts_headers=True)
    assert await mesh.stores.sweeps.unknown_contents([key_of(CLIP)]) == set()
    await mesh.pool.execute("DELETE FROM uploads")
    assert await mesh.stores.sweeps.unknown_contents([key_of(CLIP)]) == {key_of(CLIP)}
    await mesh.stores.sweeps.discard([key_of(CLIP)], [])
    upload = await mesh.open_upload(dataset.id, "a.mp4", CLIP, accepts_headers=True)
    await assert_eventually(lambda: has_no_garbage(mesh))
    part = upload.parts[0]
    assert (await mesh.http.put(part.url, content=CLIP, headers=dict(part.headers))).status_code in (200, 412)
    await mesh.complete(upload.id)
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_what_is_young_stays_and_two_replicas_never_look_at_one_place(mesh: CatalogMesh) -> None:
    young = searching(mesh, older_than=timedelta(hours=1))
    assert await passes(mesh, young) == 0
    await mesh.blobs.put_bytes(key_of(CLIP), CLIP)
    await mesh.pool.execute("UPDATE sweeps SET due_time = now(), after_key = ''")
    taken = [await mesh.stores.sweeps.take() for _ in range(3)]
    assert sorted(sweep.prefix for sweep in taken if sweep is not None) == ["contents/", "uploads/"]
    assert await passes(mesh, young) == 0
    assert await mesh.pool.fetchval("SELECT count(*) FROM sweeps WHERE due_time > now() + interval '50 minutes'") == 2
    assert key_of(CLIP) in await keys(mesh)


async def test_what_is_found_goes_after_days_unless_somebody_sends_it_meanwhile(mesh: CatalogMesh) -> None:
    search = searching(mesh, due_after=timedelta(days=7))
    assert await passes(mesh, search) == 0
    (orphan,) = await put_orphans(mesh, 1)
    await mesh.blobs.put_bytes(key_of(CLIP), CLIP)
    assert await passes(mesh, search) == 0
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", CLIP)
    await mesh.pool.execute("UPDATE sweep_finds SET find_time = now() - interval '6 days 23 hours'")
    assert await passes(mesh, search) == 0
    await mesh.pool.execute("UPDATE sweep_finds SET find_time = now() - interval '7 days'")
    assert await passes(mesh, search) == 1
    assert [key for key in await keys(mesh) if key.startswith("contents/")] == [key_of(CLIP)]
    await passes(mesh, search)
    assert orphan not in await keys(mesh)
    assert not await mesh.pool.fetchval("SELECT count(*) FROM sweep_finds")


async def test_a_new_database_beside_a_full_bucket_removes_nothing(mesh: CatalogMesh) -> None:
    """Nor does the one that it belongs to, once both are there."""
    search = searching(mesh)
    dataset = await mesh.create_dataset()
    await mesh.put(dataset.id, "a.mp4", CLIP)
    assert await passes(mesh, search) == 0
    owner = await mesh.stores.sweeps.identity()
    await mesh.pool.execute("TRUNCATE entries, files, contents, uploads, garbage CASCADE")
    await mesh.pool.execute("UPDATE identity SET id = 'cat_new'")
    with structlog.testing.capture_logs() as logs:
        assert await passes(mesh, search) == 0
    (told, *_) = [log for log in logs if log["event"] == "sweep.bucket_shared"]
    assert (told["log_level"], told["others"]) == ("error", [f"catalogs/{owner}"])
    await mesh.pool.execute("UPDATE identity SET id = $1", owner)
    assert await passes(mesh, search) == 0
    assert await keys(mesh) == sorted(["catalogs/cat_new", f"catalogs/{owner}", key_of(CLIP)])

    await mesh.blobs.remove("catalogs/cat_new")
    assert await passes(mesh, search) == 1
    assert await keys(mesh) == [f"catalogs/{owner}"]


async def test_files_that_were_there_before_any_mark_are_not_taken_for_leftovers(mesh: CatalogMesh) -> None:
    """Those of a mesh that does not know of marks yet; a file of one's own makes them no less another's."""
    search = searching(mesh)
    others = await put_orphans(mesh, 3)
    assert await passes(mesh, search) == 0
    dataset = await mesh.create_dataset()
    await mesh.put_all(dataset.id, {f"{n}.mp4": f"clip {n}".encode() for n in range(5)})
    assert await passes(mesh, search) == 0
    assert await mesh.stores.objects.list_marks() == {"unknown", await mesh.stores.sweeps.identity()}
    assert set(others) <= set(await keys(mesh))


async def test_a_page_of_strange_objects_is_told_and_left(mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_objects, "_MANY", 3)
    search = searching(mesh)
    assert await passes(mesh, search) == 0
    orphans = await put_orphans(mesh, 4)
    with structlog.testing.capture_logs() as logs:
        assert await passes(mesh, search) == 0
    (told, *_) = [log for log in logs if log["event"] == "sweep.too_much"]
    assert (told["log_level"], told["prefix"], told["first"]) == ("error", "contents/", orphans[0])
    assert set(orphans) <= set(await keys(mesh))
    assert await passes(mesh, searching(mesh, takes_many=True)) == 4
    assert not set(orphans) & set(await keys(mesh))


def test_the_last_look_comes_when_nothing_can_be_written_any_more() -> None:
    longest_put = timedelta(seconds=EdgeSettings.__dataclass_fields__["put_seconds"].default)
    assert URL_TTL + longest_put + timedelta(minutes=5) <= LATE_LOOK
