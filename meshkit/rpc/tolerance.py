"""What grpc would answer by itself, with its own text and no ErrorInfo, is led through the interceptors instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from meshkit.rpc.interceptors.validation import tolerant
from meshkit.rpc.request_context import RpcContext


class TolerantHandlers(grpc.aio.ServerInterceptor):
    """Lets unreadable requests reach the validation step, which refuses them properly."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return _with_deserializer(handler, tolerant(handler.request_deserializer))


class UnknownRpcs(grpc.GenericRpcHandler):
    """The last handler of a server: takes what no service took, so that the authentication step can refuse it."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(_never_reached)


def _with_deserializer(handler: Any, deserializer: Callable[[bytes], Any]) -> Any:
    make, behaviour = next(
        (factory, function)
        for factory, function in (
            (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        )
        if function is not None
    )
    return make(behaviour, request_deserializer=deserializer, response_serializer=handler.response_serializer)


async def _never_reached(request: bytes, context: RpcContext) -> bytes:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown rpc")
