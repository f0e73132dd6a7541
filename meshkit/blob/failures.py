"""Rows for a service's error table: what trouble with the object store looks like to a client."""

from __future__ import annotations

from datetime import timedelta

import grpc

from meshkit.blob.store import BlobUnavailable
from meshkit.rpc.failure import ErrorTable, Failure


def _unavailable(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="OBJECT_STORE_UNAVAILABLE",
        message="the object store does not answer; try again in a few seconds",
        retry_after=timedelta(seconds=5),
    )


BLOB_FAILURES: ErrorTable = {BlobUnavailable: _unavailable}
