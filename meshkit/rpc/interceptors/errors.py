"""Fourth step: every exception becomes a typed status; what nobody foresaw leaves only a request id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, NoReturn

import grpc
import structlog
from grpc_interceptor.server import AsyncServerInterceptor

from meshkit.rpc.failure import ErrorTable, Failure, failure_for
from meshkit.rpc.interceptors.outcome import code_of_cancelled
from meshkit.rpc.interceptors.step import Handler
from meshkit.rpc.request_context import RpcContext, current_request_id
from meshkit.rpc.status import abort_with, failure_from_rpc_error

# What ends a handler without being its error: the client went away, or the rpc was aborted with a status already.
_PASS = (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit)
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


class ErrorsInterceptor(AsyncServerInterceptor):
    """Translates exceptions by the error table, around the call and around the iteration of response streams."""

    def __init__(self, table: ErrorTable) -> None:
        self._table = table

    async def intercept(self, method: Handler, request_or_iterator: Any, context: RpcContext, method_name: str) -> Any:
        try:
            response = method(request_or_iterator, context)
            if hasattr(response, "__aiter__"):
                return self._translated(response, context)
            return await response
        except asyncio.CancelledError:
            context.set_code(code_of_cancelled(context))
            raise
        except _PASS:
            raise
        except Exception as error:
            await self._abort(context, error)

    async def _translated(self, responses: AsyncIterator[Any], context: RpcContext) -> AsyncIterator[Any]:
        try:
            async for response in responses:
                yield response
        except asyncio.CancelledError:
            context.set_code(code_of_cancelled(context))
            raise
        except _PASS:
            raise
        except Exception as error:
            await self._abort(context, error)

    async def _abort(self, context: RpcContext, error: Exception) -> NoReturn:
        await abort_with(context, failure_to_report(error, self._table))


def failure_to_report(error: Exception, table: ErrorTable) -> Failure:
    """Returns what a client is told of an error, and logs what the operator has to know of it."""
    failure = failure_for(error, {grpc.aio.AioRpcError: _failure_of_callee, **table})
    if failure is None:
        structlog.get_logger().exception("rpc.crashed", exc_info=error)
        return _unforeseen()
    if failure.code is grpc.StatusCode.INTERNAL or failure.code is grpc.StatusCode.UNAVAILABLE:
        structlog.get_logger().warning("rpc.failed", reason=failure.reason, cause=repr(error))
    return failure


def _unforeseen() -> Failure:
    request_id = current_request_id() or "-"
    return Failure(
        code=grpc.StatusCode.INTERNAL,
        reason="INTERNAL",
        message=f"internal error; tell the operator this request id: {request_id}",
        metadata={"request_id": request_id},
    )


def _failure_of_callee(error: grpc.aio.AioRpcError) -> Failure:
    """A failure of a called service that nobody handled: the client's business only if it may try again."""
    if error.code() not in _RETRYABLE:
        structlog.get_logger().error("rpc.callee_failed", code=error.code().name, detail=error.details())
        return _unforeseen()
    said = failure_from_rpc_error(error)
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="DEPENDENCY_UNAVAILABLE",
        message="a service that this one needs does not answer; try again in a few seconds",
        retry_after=said.retry_after or timedelta(seconds=2),
    )
