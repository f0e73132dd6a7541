"""One connection that listens, and is made again when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import NoReturn

import asyncpg
import structlog

from meshkit.postgres.trouble import POSTGRES_TROUBLE

_RECONNECT_SECONDS = 0.5
_PROBE_SECONDS = 10.0
_TIMEOUT_SECONDS = 5.0


async def listen(
    dsn: str, heard: Mapping[str, Callable[[str], None]], look_again: Callable[[], None], *, name: str
) -> NoReturn:
    """Listens for ever.

    A notification only says "look again", and some are missed while the connection is down: whoever waits also looks
    by themselves now and then.

    Args:
        heard: By channel, what is given each payload.
        look_again: Called whenever a connection stands: what happened while nobody listened is unknown.
        name: What is lost with the connection, for the log: `NAME.lost`.
    """
    while True:
        try:
            await _listen(dsn, heard, look_again)
        except POSTGRES_TROUBLE as error:
            structlog.get_logger().warning(f"{name}.lost", cause=repr(error))
        await asyncio.sleep(_RECONNECT_SECONDS)


async def _listen(dsn: str, heard: Mapping[str, Callable[[str], None]], look_again: Callable[[], None]) -> None:
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_SECONDS, command_timeout=_TIMEOUT_SECONDS)
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _: gone.set())
    try:
        for channel, hear in heard.items():
            await connection.add_listener(channel, lambda _, _pid, _channel, payload, hear=hear: hear(str(payload)))
        look_again()
        while not gone.is_set():
            # A connection that breaks without a word (a pulled cable) is noticed by asking.
            await connection.execute("SELECT 1")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await gone.wait()
    finally:
        connection.terminate()
