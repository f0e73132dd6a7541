"""Debian's RabbitMQ as a child process on loopback, with its own data folder, Erlang node and ports."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

from meshkit.embedded import free_ports
from meshkit.embedded.process import ChildServer, StartableServer

HOW_TO_INSTALL = "RabbitMQ is not installed: apt-get install --no-install-recommends rabbitmq-server"
_LIBRARIES = Path("/usr/lib/rabbitmq/lib")


class RabbitServer(StartableServer):
    """The broker as it comes, without plugins; what is published durably is on its disk before it confirms."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            "rabbitmq",
            data_dir,
            # The start script waits for the Erlang machine, and stops it on SIGTERM.
            parent_death_signal=signal.SIGTERM,
            ready_timeout_seconds=60,
            stop_timeout_seconds=30,
        )
        self.port, self._distribution_port, self._epmd_port = free_ports(3)
        self._epmd = _PortMapper(data_dir)

    @property
    def url(self) -> str:
        """The broker's address for clients."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    async def start(self) -> None:
        """Starts the broker and returns once it accepts connections.

        Raises:
            FileNotFoundError: it is not installed; the text says how to.
        """
        script = installed_script()
        # RabbitMQ would start a port mapper that outlives it; this one is ours to stop.
        await self._epmd.start(self._epmd_port)
        (self.data_dir / "enabled_plugins").write_text("[].\n")
        try:
            await self.run_until_ready([str(script)], self._is_ready, env=self._environment())
        except BaseException:
            await self._epmd.stop()
            raise

    async def stop(self) -> None:
        """Stops the broker and its port mapper."""
        await super().stop()
        await self._epmd.stop()

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.data_dir),  # where Erlang keeps the cookie of the node
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.data_dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data_dir / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.data_dir / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.data_dir / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data_dir / "enabled_plugins"),
        }

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        # It listens before it can serve: only a broker that greets is ready.
        writer.write(b"AMQP\x00\x00\x09\x01")
        try:
            async with asyncio.timeout(2):
                return bool(await reader.read(1))
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()


class _PortMapper(ChildServer):
    """Erlang's epmd in the foreground, so that it ends with us."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("epmd", data_dir)

    async def start(self, port: int) -> None:
        program = shutil.which("epmd")
        if program is None:
            raise FileNotFoundError(HOW_TO_INSTALL)

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await self.run_until_ready([program, "-address", "127.0.0.1", "-port", str(port)], listens)


def installed_script() -> Path:
    """The start script itself: Debian's wrapper in front of it insists on an account and a folder of its own.

    Raises:
        FileNotFoundError: RabbitMQ is not installed; the text says how to.
    """
    scripts = sorted(_LIBRARIES.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not scripts:
        raise FileNotFoundError(HOW_TO_INSTALL)
    return scripts[-1]
