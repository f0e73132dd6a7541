"""Whether a store verifies what is PUT into it is tried, not believed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import timedelta

import httpx
import pytest

from meshkit.blob import BlobStore, BlobUnavailable
from meshkit.blob import store as store_module
from tests.integration.careless_store import CarelessStore, serve


async def test_our_store_verifies_and_the_trial_leaves_nothing(blob_store: BlobStore) -> None:
    assert await asyncio.gather(*(blob_store.find_leniency() for _ in range(4))) == [None] * 4
    assert await blob_store.list() == []


async def test_what_a_killed_trial_left_goes_with_the_next(
    blob_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blob_store.put_bytes("trials/try_left", b"left")
    await blob_store.find_leniency()
    assert [item.key for item in await blob_store.list()] == ["trials/try_left"]
    monkeypatch.setattr(store_module, "_LONGEST_TRIAL", timedelta(seconds=-60))
    await blob_store.find_leniency()
    assert await blob_store.list() == []


@pytest.mark.parametrize(
    ("store", "leniency"),
    [
        (CarelessStore(()), "takes bytes of another SHA-256"),
        (CarelessStore(("signature", "unsigned", "presence")), "takes bytes of another SHA-256"),
        (CarelessStore(("digest", "unsigned", "presence")), "takes a PUT with another value of a signed header"),
        (CarelessStore(("signature", "digest", "presence")), "takes a PUT with an x-amz header that is not signed"),
        (CarelessStore(("signature", "unsigned", "digest")), "to a PUT with If-None-Match on an object that is there"),
        (CarelessStore(), None),
        (CarelessStore(refusal=404), "answers 404, not 400 or 403, where it should refuse"),
        # It does not know the headers, and will not learn them by being asked again.
        (CarelessStore(busy=[501]), "answers 501"),
        # Busy is no refusal, and no lack of one either.
        (CarelessStore(("signature", "unsigned", "presence"), busy=[503]), "takes bytes of another SHA-256"),
        (CarelessStore(busy=[503, 429, 500]), None),
        (CarelessStore(can_tidy=False), None),
    ],
)
async def test_a_careless_store_is_found_out(store: CarelessStore, leniency: str | None) -> None:
    with serve(store):
        blobs = BlobStore(store.endpoint, "key", "secret of the tests", "bucket")
        found = await blobs.find_leniency()
        await blobs.close()
    assert (found is None) if leniency is None else (found is not None and leniency in found)


async def test_a_busy_store_has_given_no_answer() -> None:
    with serve(CarelessStore(busy=[503] * 100)) as store:
        blobs = BlobStore(store.endpoint, "key", "secret of the tests", "bucket")
        with pytest.raises(BlobUnavailable):
            await blobs.find_leniency()
        await blobs.close()


async def test_only_one_of_many_writes_of_the_same_bytes_wins(blob_store: BlobStore) -> None:
    data = os.urandom(200_000)
    put = blob_store.presign_verified_put(
        "once", timedelta(minutes=5), length=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answers = await asyncio.gather(*(http.put(put.url, content=data, headers=dict(put.headers)) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 11
    assert await blob_store.get_bytes("once") == data
    assert (await blob_store.stat("once", with_sha256=True)).sha256 == hashlib.sha256(data).hexdigest()
    await blob_store.put_bytes("without", data)
    assert (await blob_store.stat("without", with_sha256=True)).sha256 in (None, hashlib.sha256(data).hexdigest())
