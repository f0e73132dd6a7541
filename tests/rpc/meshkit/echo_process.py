"""The echo service as a process of its own: `python -m tests.rpc.meshkit.echo_process GENERATED_DIR BEHAVIOUR`."""

from __future__ import annotations

import asyncio
import importlib
import sys

import structlog

from meshkit.auth.principal import Caller, Principal
from meshkit.lifecycle import Runtime, Service, main
from meshkit.settings import ServiceSettings
from tests.rpc.meshkit.echo_service import Echo, EchoServicer


class EverybodyIsAUser:
    """Accepts any credential."""

    async def verify(self, token: str) -> Principal:
        return Principal(kind=Caller.USER, subject=token)


async def bootstrap(runtime: Runtime, generated: str, behaviour: str) -> Service:
    sys.path.insert(0, generated)
    echo = Echo(
        pb=importlib.import_module("meshkit_test.v1.echo_pb2"),
        grpc=importlib.import_module("meshkit_test.v1.echo_pb2_grpc"),
    )

    async def close(name: str) -> None:
        structlog.get_logger().info("closed", what=name)

    runtime.stack.push_async_callback(close, "pool")
    runtime.stack.push_async_callback(close, "store")
    match behaviour:
        case "fails to start":
            raise ConnectionError("postgresql://echo:canary-secret@127.0.0.1/db is not there")
        case "waits for ever":
            structlog.get_logger().info("waiting")
            await asyncio.Event().wait()
        case "hangs at close":
            runtime.stack.push_async_callback(asyncio.Event().wait)
        case "relay dies":
            runtime.background.start("relay", _die())
    runtime.background.start("puller", _puller(), is_intake=True)
    return Service([echo.registration(EchoServicer(echo))], {}, EverybodyIsAUser())


async def _die() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("the relay broke")


async def _puller() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        structlog.get_logger().info("closed", what="puller")


if __name__ == "__main__":
    main("echo", ServiceSettings(), lambda runtime: bootstrap(runtime, sys.argv[1], sys.argv[2]))
