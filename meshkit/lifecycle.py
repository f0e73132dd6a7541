"""The life of a service process: open in order, serve, and stop in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
import uvloop
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry, Gauge

from meshkit.auth.revocations import NO_REVOCATIONS, Revocations
from meshkit.background import Background
from meshkit.cancellation import cancel_all
from meshkit.health_endpoint import health_endpoint
from meshkit.rpc.failure import ErrorTable
from meshkit.rpc.interceptors.authentication import Verifier
from meshkit.rpc.peers import NO_PEERS, Peers
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.server import BoundServer, build_server
from meshkit.settings import ServiceSettings
from meshkit.telemetry.certificate import show_certificate_end
from meshkit.telemetry.logging import configure_logging
from meshkit.telemetry.metrics import new_registry, start_metrics_server

T = TypeVar("T")

_CLOSE_SECONDS = 4.5
"""How long pools and connections may take to close once the server has stopped."""
_YOUNG_OBJECTS = 10_000
"""How many more objects than at the last collection bring on the next one."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a bootstrap function builds its service with."""

    stack: AsyncExitStack
    """Closes in reverse what bootstrap opened, after the server and the background tasks have stopped."""
    background: Background
    metrics: CollectorRegistry


@dataclass(frozen=True, slots=True)
class Service:
    """What a bootstrap function returns."""

    registrations: Sequence[ServicerRegistration]
    error_table: ErrorTable
    verifier: Verifier
    long_rpcs: frozenset[str] = field(default_factory=frozenset)
    """Full paths of the streams that may live longer than `stream_deadline_seconds`."""
    revocations: Revocations = NO_REVOCATIONS
    """Which sessions have ended; whoever makes it has it followed."""
    peers: Peers = field(default_factory=lambda: NO_PEERS)
    """What each identity may call where TLS is mutual."""


Bootstrap = Callable[[Runtime], Awaitable[Service]]


def main(name: str, settings: ServiceSettings, bootstrap: Bootstrap, *, has_children: bool = False) -> None:
    """Runs the service until SIGTERM or SIGINT and exits the process: 0 after an orderly stop, else 1.

    On uvloop, which spends less on each call. A service that starts processes (`has_children`) runs on asyncio's own
    loop: uvloop runs Python code between fork and exec, and where other threads are at work, as grpc's always are, some
    of a trainer's children never began.
    """
    run = asyncio.run if has_children else uvloop.run
    raise SystemExit(run(run_service(name, settings, bootstrap)))


async def run_service(name: str, settings: ServiceSettings, bootstrap: Bootstrap) -> int:
    """Runs one service to its end and returns the exit code.

    Logs one `service.ready` with the bound addresses once everything is open and health says SERVING.
    """
    configure_logging(name, settings.log_format, settings.log_level)
    logger = structlog.get_logger()
    with _stop_signals() as stop:
        try:
            async with AsyncExitStack() as stack:
                return await _run(settings, bootstrap, stack, stop)
        except Exception:
            logger.exception("service.failed")
            return 1
        finally:
            logger.info("service.stopped")


async def _run(settings: ServiceSettings, bootstrap: Bootstrap, stack: AsyncExitStack, stop: asyncio.Event) -> int:
    background = Background()
    runtime = Runtime(stack=stack, background=background, metrics=new_registry())
    metrics_server = start_metrics_server(settings.metrics_port, runtime.metrics, settings.host)
    stack.callback(metrics_server.close)
    serving = asyncio.Event()
    if settings.health_port is not None:
        await stack.enter_async_context(health_endpoint(settings.host, settings.health_port, serving.is_set))
    try:
        show_certificate_end(settings.tls_certificate, runtime.metrics)
        service = await _first(_bootstrapped(bootstrap, runtime, settings.startup_timeout_seconds), stop)
        if service is None:
            return 0
        if service.revocations is not NO_REVOCATIONS:
            _show_revocations(service.revocations, runtime.metrics)
        bound = build_server(
            settings,
            service.registrations,
            error_table=service.error_table,
            verifier=service.verifier,
            long_rpcs=service.long_rpcs,
            revocations=service.revocations,
            metrics=runtime.metrics,
            peers=service.peers,
        )
        _settle_memory()
        async with _serving(bound, settings, background, serving):
            structlog.get_logger().info(
                "service.ready",
                address=f"{settings.host}:{bound.port}",
                metrics_port=metrics_server.port,
                services=bound.service_names,
                pid=os.getpid(),
            )
            await _first(background.wait_for_death(), stop)
    finally:
        # For a start that failed; one that has served is on its way out already, with more time.
        _leave_within(settings.shutdown_grace_seconds + 2 * _CLOSE_SECONDS)
        await background.stop()
    return 1 if background.failed_task else 0


async def _bootstrapped(bootstrap: Bootstrap, runtime: Runtime, seconds: float) -> Service:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await bootstrap(runtime)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(
            f"the service was not ready within {seconds:.0f} s: is a server it needs unreachable?"
        ) from error


def _show_revocations(revocations: Revocations, registry: CollectorRegistry) -> None:
    fetched = Gauge(
        "reeltune_revocations_fetch_timestamp_seconds",
        "When the list of ended sessions was last fetched; 0: not yet",
        registry=registry,
    )
    fetched.set_function(lambda: revocations.fetch_time)


def _settle_memory() -> None:
    """Spares the garbage collector what lives as long as the process.

    Everything imported and opened by now is never garbage, and walking over it in the middle of a call costs tens of
    milliseconds. What calls leave behind is mostly freed without the collector, which therefore need not come so often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


@contextlib.asynccontextmanager
async def _serving(
    bound: BoundServer, settings: ServiceSettings, background: Background, serving: asyncio.Event
) -> AsyncIterator[None]:
    """Serves inside the block, where `serving` is set; leaving it is half of the stop: health, intake, server."""
    await set_health(bound, health_pb2.HealthCheckResponse.NOT_SERVING)
    await bound.server.start()
    await set_health(bound, health_pb2.HealthCheckResponse.SERVING)
    serving.set()
    try:
        yield
    finally:
        serving.clear()
        grace = settings.shutdown_grace_seconds
        structlog.get_logger().info("service.stopping", grace_seconds=grace)
        _leave_within(grace + 2 * _CLOSE_SECONDS)
        await bound.health.enter_graceful_shutdown()
        await background.stop_intake()
        await bound.server.stop(grace)


async def set_health(bound: BoundServer, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
    """Sets the health of the server as a whole and of each of its services."""
    for name in ("", *bound.service_names):
        await bound.health.set(name, status)


async def _first(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Waits for the work or the stop signal, whichever comes first; None means that the signal was."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        await cancel_all(task, stopped)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Gives an event that SIGTERM and SIGINT set; the second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            structlog.get_logger().warning("service.killed", signal=number.name)
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _leave_within(seconds: float) -> None:
    """Starts the last timer: when it rings, the process ends, whatever hangs.

    Nothing stops it: it watches over the closing of what bootstrap opened, of the event loop, whose threads are waited
    for, and of the interpreter.
    """
    # A thread, not the event loop: what hangs may be the loop itself.
    timer = threading.Timer(seconds, _give_up, [seconds])
    timer.daemon = True
    timer.start()


def _give_up(seconds: float) -> None:
    structlog.get_logger().error("service.stop_timed_out", seconds=seconds)
    os._exit(1)
