"""Rows for a service's error table: NATS troubles, where an rpc needs it at all."""

from __future__ import annotations

from datetime import timedelta

import grpc

from meshkit.jetstream.connection import NatsUnavailable
from meshkit.rpc.failure import ErrorTable, Failure


def _unavailable(_: BaseException) -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="NATS_UNAVAILABLE",
        message="the message broker does not answer; try again in a few seconds",
        retry_after=timedelta(seconds=5),
    )


NATS_FAILURES: ErrorTable = {NatsUnavailable: _unavailable}
