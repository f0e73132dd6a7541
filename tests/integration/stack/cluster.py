"""A cluster on one machine: the processes of the Helm chart, with the very variables and arguments that it gives them.

Only what a machine must decide is put in: free ports, loopback, and folders in place of mounted secrets. Where
Kubernetes has a Service, a proxy leads to its replicas. Names are `NAME.localhost`, which is loopback by RFC 6761, and
which the certificates hold for.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from meshkit.embedded import NatsServer, PostgresServer, S3Server, free_port
from meshkit.embedded.process import StartableServer
from reeltune_cli.client import Endpoint
from reeltune_cli.stack.container_servers import prepare_database
from reeltune_cli.stack.prepared import Preparation, prepare
from reeltune_cli.stack.secrets_file import load_or_make_secrets
from reeltune_cli.stack.server_access import nats_users, s3_identities
from tests.faults.tcp_proxy import LOOPBACK, FaultProxy

ROOT = Path(__file__).parents[3]
SERVICES = ("auth", "catalog", "scheduler", "trainer")
_MOUNTED, _DATA = "/run/reeltune", "/data"
_REPLICAS = {"catalog": 2, "scheduler": 2}


class ClusterProcess(StartableServer):
    """A container of the chart as a process of this machine, ready when its probe says so."""

    def __init__(self, name: str, folder: Path, command: list[str], environment: Mapping[str, str], probe: str) -> None:
        super().__init__(name, folder, ready_timeout_seconds=120, stop_timeout_seconds=30)
        self.command = command
        self.environment = dict(environment)
        self.probe = probe

    async def start(self) -> None:
        """Starts it and waits until its readiness probe passes."""
        await self.run_until_ready(self.command, self._is_ready, env=self.environment)

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient(verify=False, timeout=2, trust_env=False) as client:
                return (await client.get(self.probe)).status_code == 200
        except httpx.TransportError:
            return False


@dataclass
class Cluster:
    """The running mesh."""

    home: Path
    prepared: Path
    endpoint: Endpoint
    admin_dsn: str
    proxies: dict[str, FaultProxy] = field(default_factory=dict)
    processes: dict[str, ClusterProcess] = field(default_factory=dict)

    def setting(self, service: str, name: str) -> str:
        """Returns a secret setting as the service is given it."""
        return (self.prepared / service / "settings" / f"{service}_{name}").read_text()

    def tls(self, part: str) -> dict[str, Path]:
        """Returns the certificate of a part, as `open_channel` takes it."""
        folder = self.prepared / part / "tls"
        return {"tls_ca": folder / "ca.crt", "tls_certificate": folder / "tls.crt", "tls_key": folder / "tls.key"}


def render_chart(helm: Path, values: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Returns the manifests of a release named `reeltune` with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    command = [str(helm), "template", "reeltune", str(ROOT / "deploy/helm/reeltune"), "--values", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@asynccontextmanager
async def running_cluster(home: Path, helm: Path, values: Mapping[str, Any]) -> AsyncIterator[Cluster]:
    """Prepares, migrates and runs a cluster: two schedulers, two catalogs, one auth, one trainer and the edge."""
    prepared, edge_port = home / "prepared", free_port()
    postgres = PostgresServer(home / "postgres")
    wanted = Preparation(prepared, postgres=f"{LOOPBACK}:{postgres.port}", namespace="localhost")
    await asyncio.to_thread(prepare, wanted)
    secrets = load_or_make_secrets(prepared / "authority" / "secrets.json")
    nats, s3 = NatsServer(home / "nats", nats_users(secrets)), S3Server(home / "s3", s3_identities(secrets))
    async with AsyncExitStack() as stack:
        for server in (postgres, nats, s3):
            stack.push_async_callback(server.stop)
        await asyncio.gather(postgres.start(), nats.start(), s3.start())
        dsn = postgres.dsn("reeltune")
        await prepare_database(dsn, [prepared / name / "settings" for name in ("auth", "catalog", "scheduler")])
        addresses = {
            "publicUrl": f"https://{LOOPBACK}:{edge_port}",
            "nats": {"url": nats.url},
            "s3": {"endpoint": f"http://{s3.endpoint}"},
        }
        manifests = render_chart(helm, {**addresses, **values}, home)
        endpoint = Endpoint(f"{LOOPBACK}:{edge_port}", prepared / "edge" / "public" / "ca.crt")
        cluster = Cluster(home, prepared, endpoint, dsn)
        await _place(cluster, manifests, edge_port, stack)
        await asyncio.gather(*(asyncio.to_thread(_migrate, cluster, job) for job in _of_kind(manifests, "Job")))
        for process in cluster.processes.values():
            stack.push_async_callback(process.stop)
        edge = cluster.processes["edge"]
        await asyncio.gather(*(each.start() for each in cluster.processes.values() if each is not edge))
        await edge.start()
        yield cluster


async def _place(cluster: Cluster, manifests: list[dict[str, Any]], edge_port: int, stack: AsyncExitStack) -> None:
    ports = {name: [free_port() for _ in range(_REPLICAS.get(name, 1))] for name in SERVICES}
    for name in SERVICES:
        cluster.proxies[name] = await FaultProxy(*ports[name]).start()
        stack.push_async_callback(cluster.proxies[name].close)
    for manifest in _of_kind(manifests, "Deployment", "StatefulSet"):
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        name = container["name"]
        if name == "edge":
            cluster.processes[name] = _edge(cluster, container, edge_port)
            continue
        for number, port in enumerate(ports[name], 1):
            replica = f"{name}-{number}"
            folder = cluster.home / replica
            environment = _environment(cluster, container, folder)
            health = free_port()
            prefix = name.upper()
            environment |= {f"{prefix}_PORT": str(port), f"{prefix}_HEALTH_PORT": str(health)}
            environment |= {f"{prefix}_METRICS_PORT": str(free_port())}
            command = [sys.executable, "-m", *container["args"]]
            probe = f"http://{LOOPBACK}:{health}{container['readinessProbe']['httpGet']['path']}"
            cluster.processes[replica] = ClusterProcess(replica, folder, command, environment, probe)


def _environment(cluster: Cluster, container: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Returns the container's own variables, with this machine's folders and addresses in place of the cluster's."""
    name = container["args"][0].removesuffix("_svc")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    found = {}
    for variable in container["env"]:
        value = variable.get("value", folder.name)  # the name of the pod
        found[variable["name"]] = _here(cluster, name, value, folder)
    assert found[f"{name.upper()}_HOST"] == "0.0.0.0"
    return {**found, f"{name.upper()}_HOST": LOOPBACK}


def _here(cluster: Cluster, part: str, value: str, folder: Path, *, names: bool = True) -> str:
    if value.startswith(_MOUNTED):
        return str(cluster.prepared / part) + value.removeprefix(_MOUNTED)
    if value == _DATA:
        return str(folder / "data")
    service, colon, _ = value.removeprefix("reeltune-").partition(":")
    if value.startswith("reeltune-") and colon and service in cluster.proxies:
        return f"{service}.localhost:{cluster.proxies[service].port}" if names else cluster.proxies[service].target
    return value


def _edge(cluster: Cluster, container: Mapping[str, Any], port: int) -> ClusterProcess:
    folder = cluster.home / "edge"
    arguments = []
    for argument in container["args"]:
        head, _, value = argument.rpartition("=")
        # The edge knows services by the identity in their certificates, whatever leads to them.
        here = _here(cluster, "edge", value, folder, names=False).replace("/run/edge", str(folder))
        arguments.append(f"{head}={here}")
    arguments += [f"--host={LOOPBACK}", f"--port={port}", f"--metrics-port={free_port()}"]
    command = [sys.executable, "-m", "reeltune_cli", "cluster", "edge", *arguments]
    return ClusterProcess("edge", folder, command, {}, f"https://{LOOPBACK}:{port}/healthz")


def _migrate(cluster: Cluster, job: dict[str, Any]) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = _environment(cluster, container, cluster.home / job["metadata"]["name"])
    done = subprocess.run(
        [sys.executable, "-m", *container["args"]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0001_" in done.stdout


def _of_kind(manifests: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]
