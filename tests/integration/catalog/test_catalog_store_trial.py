"""Whether the store verifies what is sent to it is asked again: no answer is not for life."""

from __future__ import annotations

import asyncio

from catalog_svc.clients.object_store import open_store
from meshkit.blob import BlobStore
from meshkit.testing import assert_eventually
from tests.integration.careless_store import CHECKS, CarelessStore, serve


async def test_a_store_that_was_busy_at_the_start_is_believed_later() -> None:
    with serve(CarelessStore(busy=[503] * 4)) as store:
        blobs = BlobStore(store.endpoint, "key", "secret of the tests", "bucket")
        objects = await open_store(blobs)
        assert not objects.is_verifying
        trials = asyncio.create_task(objects.keep_trying(soon_seconds=0.01, late_seconds=0.01))
        try:
            await assert_eventually(lambda: objects.is_verifying)
            store.checks = CHECKS[:2]
            await assert_eventually(lambda: not objects.is_verifying)
            store.checks = CHECKS
            await assert_eventually(lambda: objects.is_verifying)
            store.busy += [503] * 4  # it knows no better than before
            await assert_eventually(lambda: not store.busy)
            assert objects.is_verifying
        finally:
            trials.cancel()
            await asyncio.gather(trials, return_exceptions=True)
            await blobs.close()
