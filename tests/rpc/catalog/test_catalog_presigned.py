"""Addresses to write to: nothing in place can be changed by one, used again or after its time."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from catalog_svc.clients import object_store
from catalog_svc.domain.upload import PART_BYTES
from meshkit.testing import assert_eventually
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, refused


async def test_an_address_that_has_ended_writes_nothing(mesh: CatalogMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = await mesh.create_dataset()
    monkeypatch.setattr(object_store, "URL_TTL", timedelta(seconds=1))
    upload = await mesh.open_upload(dataset.id, "a.mp4", b"late")
    monkeypatch.undo()
    codes: list[int] = []

    async def has_ended() -> bool:
        codes.append((await mesh.http.put(upload.parts[0].url, content=b"late")).status_code)
        return codes[-1] == 403

    await assert_eventually(has_ended)
    fresh = await mesh.open_upload(dataset.id, "a.mp4", b"late")
    assert fresh.id == upload.id
    await mesh.put_parts(fresh, b"late")
    assert (await mesh.complete(fresh.id)).path == "a.mp4"


@pytest.mark.parametrize("size", [100, PART_BYTES + 100])
async def test_an_address_that_is_used_again_changes_nothing_in_place(mesh: CatalogMesh, size: int) -> None:
    dataset = await mesh.create_dataset()
    data, other = os.urandom(size), os.urandom(size)
    upload = await mesh.open_upload(dataset.id, "a.mp4", data)
    await mesh.put_parts(upload, data)
    stored = await mesh.complete(upload.id)
    for part in upload.parts:
        body = other[part.offset_bytes : part.offset_bytes + part.size_bytes]
        await mesh.http.put(part.url, content=body)  # whatever the store answers
    assert (await mesh.complete(upload.id)).sha256 == stored.sha256
    assert await mesh.blobs.get_bytes(f"contents/{ALICE}/{stored.sha256}") == data
    await mesh.pool.execute("UPDATE garbage SET due_time = now()")

    async def only_the_content() -> bool:
        return [item.key for item in await mesh.blobs.list()] == [f"contents/{ALICE}/{stored.sha256}"]

    await assert_eventually(only_the_content)


@pytest.mark.parametrize(
    "path", ["a\u202e4pm.mp4", "a" * 4096, "/".join(["a"] * 300), "\u2067a.mp4", "a\x7f.mp4", "..\\a.mp4", "a\rb.mp4"]
)
async def test_names_that_deceive_or_break_are_refused(mesh: CatalogMesh, path: str) -> None:
    dataset = await mesh.create_dataset()
    refusal = await refused(mesh.open_upload(dataset.id, path, b"x"))
    assert (refusal.reason, refusal.field_violations[0].field) == ("FIELD_INVALID", "file.path")
    assert len(refusal.message) < 2000
