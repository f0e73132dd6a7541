"""A connection to NATS that is made in the background and made again for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

_WARN_EVERY_SECONDS = 30.0
_DRAIN_SECONDS = 2.0


class NatsUnavailable(Exception):
    """NATS cannot be reached at the moment; what the message would have woken has to be found by polling."""


class JetStream:
    """One connection of one service. Made by `connect`."""

    def __init__(self, url: str, user: str, password: str, name: str) -> None:
        self._url = url
        self._user = user
        self._password = password
        self._name = name
        self._client = Client()
        self._contexts: dict[float, JetStreamContext] = {}
        """Of the present client, by timeout: making one costs as much as publishing."""
        self._closed = asyncio.Event()
        self._online = asyncio.Event()
        self._warned_at = float("-inf")
        self.generation = 0
        """Counts the connections made: subscriptions of an earlier one have missed messages."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name="nats.connection")

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands at the moment."""
        return self._online.is_set() and self._client.is_connected

    async def wait_connected(self, timeout_seconds: float | None = None) -> None:
        """Waits until the connection stands.

        Raises:
            NatsUnavailable: it does not stand within the time given.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._online.wait()
        except TimeoutError as error:
            raise NatsUnavailable(f"no connection to NATS at {self._url} within {timeout_seconds} s") from error

    def context(self, timeout_seconds: float = 5) -> JetStreamContext:
        """Returns nats-py's JetStream context of the present connection.

        Raises:
            NatsUnavailable: there is no connection. Asked first, because nats-py would keep the request and send it
                when it is no longer wanted.
        """
        if not self.is_connected:
            raise NatsUnavailable(f"no connection to NATS at {self._url}")
        context = self._contexts.get(timeout_seconds)
        if context is None:
            context = self._contexts[timeout_seconds] = self._client.jetstream(timeout=timeout_seconds)
        return context

    async def close(self) -> None:
        """Sends what is pending and closes the connection for good."""
        self._closed.set()
        if self.is_connected:
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._client.drain()
        with contextlib.suppress(TimeoutError, nats.errors.Error):
            async with asyncio.timeout(_DRAIN_SECONDS):
                # nats-py swallows a cancellation that comes while it connects: it is said again until it is heard.
                while not self._task.done():
                    self._task.cancel()
                    await asyncio.wait({self._task}, timeout=0.1)
                # It waits for a peer that takes nothing more.
                await self._client.close()

    async def _keep_connected(self) -> None:
        # nats-py reconnects by itself, but closes for good on some errors (a refused login while the server's users
        # change, for one): then a new client starts over.
        while not self._closed.is_set():
            gone = asyncio.Event()
            self._client = Client()
            self._contexts = {}
            try:
                await self._connect(gone)
                self._came_online()
                await gone.wait()
            except (nats.errors.Error, OSError, TimeoutError) as error:
                await self._on_error(error)
            self._online.clear()
            await asyncio.sleep(0.5)

    async def _connect(self, gone: asyncio.Event) -> None:
        async def on_closed() -> None:
            gone.set()

        async def on_disconnected() -> None:
            self._online.clear()
            structlog.get_logger().warning("nats.disconnected", url=self._url)

        async def on_reconnected() -> None:
            self._came_online()

        await self._client.connect(
            self._url,
            name=self._name,
            user=self._user,
            password=self._password,
            inbox_prefix=f"_INBOX_{self._user}",
            connect_timeout=3,
            reconnect_time_wait=1,
            max_reconnect_attempts=-1,
            # A broker that vanished without a word (power cut, pulled cable) is noticed within 15 s.
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            closed_cb=on_closed,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
        )

    def _came_online(self) -> None:
        self.generation += 1
        self._online.set()
        structlog.get_logger().info("nats.connected", url=self._url, generation=self.generation)

    async def _on_error(self, error: Exception) -> None:
        # While the broker is down every try fails: one line in a while says enough.
        if time.monotonic() - self._warned_at >= _WARN_EVERY_SECONDS:
            self._warned_at = time.monotonic()
            structlog.get_logger().warning("nats.error", url=self._url, cause=repr(error))


def connect(url: str, *, user: str, password: str, name: str) -> JetStream:
    """Starts connecting to NATS and returns at once, whether or not it can be reached; needs a running event loop.

    Replies come to `_INBOX_<user>.>`, which the user must be allowed to subscribe to: with one prefix for each user,
    none can listen to another's replies.
    """
    return JetStream(url, user, password, name)
