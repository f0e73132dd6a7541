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
    return grpc.StatusCode.OK if context.done() else code_of_cancelled(context)


def code_of_cancelled(context: RpcContext) -> grpc.StatusCode:
    """Returns why a call was cancelled: by its client, or by core at the client's deadline.

    Whoever sees the cancellation sets it on the context: grpc.aio may then still count the call as answered.
    """
    remaining = context.time_remaining()
    return grpc.StatusCode.CANCELLED if remaining is None or remaining > 0 else grpc.StatusCode.DEADLINE_EXCEEDED
