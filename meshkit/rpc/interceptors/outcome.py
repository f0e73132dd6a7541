"""How a finished rpc ended, as far as the server can tell."""

from __future__ import annotations

from typing import Any

import grpc

from meshkit.rpc.request_context import RpcContext

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def outcome_of(context: RpcContext) -> grpc.StatusCode:
    """Returns the status of a call whose done callback is running."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    if code:
        return _CODES.get(code, grpc.StatusCode.UNKNOWN)
    # No status was sent: the client went away, or core cut the call at the client's deadline.
    if not context.done():
        remaining = context.time_remaining()
        return grpc.StatusCode.CANCELLED if remaining is None or remaining > 0 else grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.OK
