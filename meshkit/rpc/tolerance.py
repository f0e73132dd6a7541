"""What grpc would answer by itself, with its own text and no ErrorInfo, is led through the interceptors instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from meshkit.rpc.interceptors.validation import tolerant
from meshkit.rpc.request_context import RpcContext


class TolerantHandlers(grpc.aio.ServerInterceptor):
    """Lets unreadable requests reach the validation step, which refuses them properly.

    As the first interceptor it also remembers the handler with all interceptors around it, which grpc would have built
    anew for every call; ours look at the method alone.
    """

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        built = self._built.get(method)
        if built is not None:
            return built
        # Without the metadata: what is remembered must not hold the token of the call that happened to come first.
        make_details: Any = type(handler_call_details)
        handler = await continuation(make_details(method, ()))
        if handler is None or handler.request_deserializer is None:
            # Nobody's method: names from outside must not fill the memory.
            return handler
        return self._built.setdefault(method, _with_deserializer(handler, tolerant(handler.request_deserializer)))


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


async def _never_reached(_request: bytes, context: RpcContext) -> bytes:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown rpc")
