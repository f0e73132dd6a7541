"""Objects that nothing refers to, and that no look of the collector would find any more."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
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


async def has_no_garbage(mesh: CatalogMesh) -> bool:
    return not await mesh.pool.fetchval("SELECT count(*) FROM garbage")


async def test_what_comes_after_the_last_look_is_found_and_nothing_else_is_touched(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_objects, "_PAGE", 2)
    mesh = await start(sweep_seconds=0.05, sweep_after_hours=0)
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
    expected = sorted([key_of(CLIP), key_of(OTHER), f"uploads/{staged.id}", *wanted])

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
    assert await mesh.stores.sweeps.discard_unknown_contents([key_of(CLIP)]) == []
    await mesh.pool.execute("DELETE FROM uploads")
    assert await mesh.stores.sweeps.discard_unknown_contents([key_of(CLIP)]) == [key_of(CLIP)]
    upload = await mesh.open_upload(dataset.id, "a.mp4", CLIP, accepts_headers=True)
    await assert_eventually(lambda: has_no_garbage(mesh))
    part = upload.parts[0]
    assert (await mesh.http.put(part.url, content=CLIP, headers=dict(part.headers))).status_code in (200, 412)
    await mesh.complete(upload.id)
    assert await mesh.blobs.get_bytes(key_of(CLIP)) == CLIP


async def test_what_is_young_stays_and_two_replicas_never_look_at_one_place(mesh: CatalogMesh) -> None:
    await mesh.blobs.put_bytes(key_of(CLIP), CLIP)
    hour = timedelta(hours=1)
    young = SweepObjects(mesh.stores.sweeps, mesh.stores.objects, older_than=hour, pause=hour)
    await mesh.pool.execute("UPDATE sweeps SET due_time = now(), after_key = ''")
    taken = [await mesh.stores.sweeps.take() for _ in range(3)]
    assert sorted(sweep.prefix for sweep in taken if sweep is not None) == ["contents/", "uploads/"]
    await mesh.pool.execute("UPDATE sweeps SET due_time = now()")
    assert [await young.sweep() for _ in range(3)] == [0, 0, 0]
    assert await mesh.pool.fetchval("SELECT count(*) FROM sweeps WHERE due_time > now() + interval '50 minutes'") == 2
    assert await keys(mesh) == [key_of(CLIP)]


def test_the_last_look_comes_when_nothing_can_be_written_any_more() -> None:
    longest_put = timedelta(seconds=EdgeSettings.__dataclass_fields__["put_seconds"].default)
    assert URL_TTL + longest_put + timedelta(minutes=5) <= LATE_LOOK
