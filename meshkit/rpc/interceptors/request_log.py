"""First step: the request id, and one log line when the rpc is over."""

from __future__ import annotations

import time
from typing import Any

import structlog

from meshkit.rpc.interceptors.outcome import outcome_of
from meshkit.rpc.interceptors.step import StepInterceptor
from meshkit.rpc.request_context import REQUEST_ID_KEY, RpcContext, begin_request
from meshkit.telemetry.logging import bound_logger

# Probes come every few seconds and say nothing: their lines would bury the others.
_QUIET_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class RequestLogInterceptor(StepInterceptor):
    """Binds the request id and the method to the log context of the call, and answers with the id."""

    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        offered = next((str(v) for k, v in context.invocation_metadata() or () if k == REQUEST_ID_KEY), None)
        request_id = begin_request(offered)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id, rpc=method_name)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        if not method_name.startswith(_QUIET_SERVICES):
            self._log_when_done(context, method_name, request_id)
        return request

    def _log_when_done(self, context: RpcContext, method_name: str, request_id: str) -> None:
        start = time.monotonic()

        def log(_: Any) -> None:
            seconds = round(time.monotonic() - start, 6)
            code = outcome_of(context).name
            bound_logger().info("rpc.finished", rpc=method_name, request_id=request_id, code=code, seconds=seconds)

        # A done callback also runs for calls that the client gave up, where no generator or `finally` runs in time.
        context.add_done_callback(log)  # type: ignore[arg-type]  # the stub wants its private context class
