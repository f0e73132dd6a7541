"""The base of interceptors that do something before the handler starts and leave its response alone."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from grpc_interceptor.server import AsyncServerInterceptor

from meshkit.rpc.request_context import RpcContext

Handler = Callable[[Any, RpcContext], Any]
"""The next handler: gives an awaitable, or an async iterator if the response is a stream."""


class StepInterceptor(AsyncServerInterceptor):
    """Runs `before` inside the call's own task, so that context variables set there reach the handler."""

    async def intercept(self, method: Handler, request_or_iterator: Any, context: RpcContext, method_name: str) -> Any:
        request = await self.before(request_or_iterator, context, method_name)
        response = method(request, context)
        return response if hasattr(response, "__aiter__") else await response

    @abc.abstractmethod
    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        """Returns the request (or request iterator) to hand on; raises to refuse the call."""
