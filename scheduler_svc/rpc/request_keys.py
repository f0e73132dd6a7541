"""Which requests are repetitions of each other."""

from __future__ import annotations

import hashlib
from typing import Protocol
from uuid import UUID

from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.rpc.caller import calling_user


class RepeatableRequest(Protocol):
    """A request message `XRequest` of the rpc `X`, with a `request_id`."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


def request_key(request: RepeatableRequest) -> RequestKey | None:
    """Returns what makes the calling user's request known when it comes again; None without a `request_id`."""
    if not request.request_id:
        return None
    # The bytes hold the id itself, which does no harm, and fields unknown to this version: they were asked for, too.
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(calling_user(), UUID(request.request_id), type(request).__name__.removesuffix("Request"), digest)
