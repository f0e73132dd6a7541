"""What belongs to the rpc being served and travels with the calls it makes: its id and its deadline."""

from __future__ import annotations

import re
import time
from contextvars import ContextVar
from typing import Any

import grpc

from meshkit.ids import new_id

RpcContext = grpc.aio.ServicerContext[Any, Any]
"""What grpc hands to a handler beside the request."""

REQUEST_ID_KEY = "x-request-id"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_request_id: ContextVar[str | None] = ContextVar("meshkit_request_id", default=None)
_deadline: ContextVar[float | None] = ContextVar("meshkit_deadline", default=None)


def current_request_id() -> str | None:
    """Returns the id of the rpc being served, or None outside one."""
    return _request_id.get()


def remaining_seconds() -> float | None:
    """Returns the time the rpc being served still has (never below zero), or None if it has no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def begin_request(offered_id: str | None) -> str:
    """Binds the request id: the caller's if it is harmless in a log and a header, else a new one."""
    request_id = offered_id if offered_id and _ACCEPTED_ID.fullmatch(offered_id) else new_id("req")
    _request_id.set(request_id)
    return request_id


def set_deadline(seconds: float | None) -> None:
    """Binds the deadline, in seconds from now."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)
