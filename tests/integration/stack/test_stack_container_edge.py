"""The edge as a container runs it: what it shows of itself, and that it takes up a renewed certificate."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio

from meshkit.embedded import free_ports
from meshkit.embedded.process import StartableServer
from meshkit.testing.eventually import assert_eventually
from reeltune_cli.stack.certificates import ensure_certificates
from tests.e2e.conftest import skip_without_servers
from tests.faults.tcp_proxy import LOOPBACK


class ContainerEdge(StartableServer):
    """`reeltune cluster edge`, with nothing behind it."""

    def __init__(self, folder: Path, public_tls: Path) -> None:
        super().__init__("edge", folder, ready_timeout_seconds=60)
        self.port, self.metrics_port = free_ports(2)
        self._command = [
            sys.executable, "-m", "reeltune_cli", "cluster", "edge", f"--folder={folder}", f"--public-tls={public_tls}",
            "--upstream=auth=127.0.0.1:1", f"--host={LOOPBACK}", f"--port={self.port}",
            f"--metrics-port={self.metrics_port}",
        ]  # fmt: skip

    async def start(self) -> None:
        await self.run_until_ready(self._command, self._is_ready)

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                return (await client.get(f"http://{LOOPBACK}:{self.metrics_port}/metrics")).status_code == 200
        except httpx.TransportError:
            return False


@pytest_asyncio.fixture(loop_scope="session")
async def edge(tmp_path: Path) -> AsyncIterator[ContainerEdge]:
    """A running edge; its certificate is in `tls` beside its folder."""
    skip_without_servers()
    _show(tmp_path, "first")
    server = ContainerEdge(tmp_path / "edge", tmp_path / "tls")
    await server.start()
    yield server
    await server.stop()


def _show(folder: Path, name: str) -> None:
    """Puts a certificate of a new authority where the edge shows it from, as whoever renews it does: by renaming."""
    files = ensure_certificates(folder / name)
    (folder / "tls").mkdir(exist_ok=True)
    for source, target in ((files.certificate, "tls.crt"), (files.key, "tls.key")):
        copy = folder / f"{name}-{target}"
        copy.write_bytes(source.read_bytes())
        os.replace(copy, folder / "tls" / target)


async def test_a_renewed_certificate_is_shown_without_a_restart(edge: ContainerEdge, tmp_path: Path) -> None:
    async def is_trusted(name: str) -> bool:
        trust = ssl.create_default_context(cafile=str(tmp_path / name / "ca.pem"))
        try:
            async with httpx.AsyncClient(verify=trust, timeout=5, trust_env=False) as client:
                await client.get(f"https://{LOOPBACK}:{edge.port}/healthz")
        except httpx.ConnectError:
            return False
        return True

    assert await is_trusted("first")
    _show(tmp_path, "second")
    await assert_eventually(lambda: is_trusted("second"))
    assert not await is_trusted("first")


async def test_it_shows_its_metrics_and_nothing_else_of_its_admin(edge: ContainerEdge) -> None:
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://{LOOPBACK}:{edge.metrics_port}") as client:
        assert "envoy_cluster" in (await client.get("/metrics")).text
        for method, path in (("GET", "/config_dump"), ("GET", "/metrics/../config_dump"), ("POST", "/metrics")):
            assert (await client.request(method, path)).status_code == 404
