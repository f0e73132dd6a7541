"""Second step: how many rpcs, how they ended, how long they took."""

from __future__ import annotations

import functools
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from meshkit.rpc.interceptors.outcome import outcome_of
from meshkit.rpc.interceptors.step import StepInterceptor
from meshkit.rpc.request_context import RpcContext

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
"""Among them what is promised: 0.5 s for most calls, 2 s until a job is acknowledged. Alerts ask for these two."""


class RpcMetricsInterceptor(StepInterceptor):
    """Keeps the standard rpc metrics, for the methods that the server knows (others count as `unknown`)."""

    def __init__(self, registry: CollectorRegistry, known_methods: frozenset[str]) -> None:
        self._known = known_methods
        self._handled = Counter("rpc_server_handled_total", "RPCs finished", ["rpc", "code"], registry=registry)
        self._seconds = Histogram(
            "rpc_server_handling_seconds",
            "Time from start to end of an RPC",
            ["rpc"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("rpc_server_in_flight", "RPCs being served", ["rpc"], registry=registry)
        # Looking up labels costs more than counting: each rpc, known or `unknown`, is looked up once.
        self._per_rpc = functools.lru_cache(maxsize=None)(
            lambda rpc: (self._in_flight.labels(rpc), self._seconds.labels(rpc))
        )
        self._counter = functools.lru_cache(maxsize=None)(self._handled.labels)

    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        # Method names come from outside: unbounded label values would fill the memory.
        rpc = method_name if method_name in self._known else "unknown"
        start = time.monotonic()
        in_flight, seconds = self._per_rpc(rpc)
        in_flight.inc()

        def record(_: Any) -> None:
            in_flight.dec()
            seconds.observe(time.monotonic() - start)
            self._counter(rpc, outcome_of(context).name).inc()

        context.add_done_callback(record)  # type: ignore[arg-type]  # the stub wants its private context class
        return request
