"""A whole mesh for faults: real processes, several schedulers and trainers, and a proxy on each way between them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from meshkit.blob import BlobStore
from meshkit.embedded import EnvoyServer, NatsServer, S3Server, ServerNotReady, free_ports
from meshkit.embedded.process import StartableServer
from meshkit.jetstream import JetStream, connect
from reeltune_cli.client import Endpoint as ClientEndpoint
from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.edge import EdgeSettings, Endpoint, render_edge
from reeltune_cli.stack.environment import StackPlan
from reeltune_cli.stack.folder import StackFolder
from reeltune_cli.stack.options import UpOptions
from reeltune_cli.stack.parts import PORT_NAMES, MeshPostgres
from reeltune_cli.stack.secrets_file import StackSecrets
from reeltune_cli.stack.server_access import nats_users, s3_identities
from tests.faults.mesh_process import MeshProcess, service_command
from tests.faults.store_proxy import StoreProxy
from tests.faults.tcp_proxy import LOOPBACK, FaultProxy

LEASE_SECONDS = 4.0
SWEEP_SECONDS = 0.5
STOP_GRACE_SECONDS = 8.0
PART_BYTES = 5 * 1024**2
"""The least that S3 takes: larger files of attempts are stored in parts."""
STALL_SECONDS = 3.0
"""A rehearsal whose steps take longer is taken for hung."""
SETTINGS = {
    # Whether models can take a step is tried elsewhere; a GiB of memory is better used here.
    "CATALOG_MODEL_TOOL_COMMAND": "",
    "SCHEDULER_LEASE_SECONDS": str(LEASE_SECONDS),
    "SCHEDULER_HEARTBEAT_SECONDS": "0.5",
    "SCHEDULER_SWEEP_SECONDS": str(SWEEP_SECONDS),
    "SCHEDULER_STOP_GRACE_SECONDS": str(STOP_GRACE_SECONDS),
    "SCHEDULER_WATCH_HEARTBEAT_SECONDS": "2",
    "SCHEDULER_SHUTDOWN_GRACE_SECONDS": "20",
    "SCHEDULER_PART_BYTES": str(PART_BYTES),
    "TRAINER_RECIPES": "rehearsal",
    "TRAINER_HEARTBEAT_SECONDS": "0.5",
    "TRAINER_POLL_SECONDS": "0.5",
    "TRAINER_STALL_SECONDS": str(STALL_SECONDS),
    "TRAINER_LOADING_STALL_SECONDS": "15",
    "TRAINER_STOP_GRACE_SECONDS": "1.5",
    "TRAINER_DRAIN_GRACE_SECONDS": "3",
}
"""Everything that is waited for is ten times as short as in earnest."""
_WATCHED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a mesh is."""

    schedulers: int = 2
    trainers: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    """Beside, or instead of, `SETTINGS`."""
    seed: int = 0
    """Of the proxies' dice."""


class Trainer(MeshProcess):
    """A trainer, with its own way to the schedulers and to the broker."""

    link: FaultProxy
    nats_link: FaultProxy


class Scheduler(MeshProcess):
    """A scheduler, with its own way to the database."""

    port: int
    postgres_link: FaultProxy


class FaultMesh:
    """The mesh; made by `running_fault_mesh`."""

    def __init__(self, home: Path, shape: Shape) -> None:
        folder = StackFolder(home)
        names = ("edge", *PORT_NAMES)
        self.home = home
        self.shape = shape
        certificates = ensure_certificates(folder.certificates)
        (home / "logs").mkdir(mode=0o700, exist_ok=True)
        self._plan = StackPlan(
            UpOptions(home, has_trainer=False),
            folder,
            StackSecrets(),
            dict(zip(names, free_ports(len(names)), strict=True)),
            certificates.ca,
        )
        self.endpoint = ClientEndpoint(self._plan.target("edge"), certificates.ca)
        self.postgres = MeshPostgres(self._plan)
        self.nats = NatsServer(folder.part("nats"), nats_users(self._plan.secrets), port=self._plan.ports["nats"])
        self.s3 = S3Server(folder.part("s3"), s3_identities(self._plan.secrets), port=self._plan.ports["s3"])
        self.store = StoreProxy(self._plan.ports["s3"], seed=shape.seed)
        """On everybody's way to the object store."""
        self.nats_link = FaultProxy(self.nats.port)
        """On the schedulers' way to the broker."""
        self.catalog_link = FaultProxy()
        """On the catalog's way to the schedulers, whose keys verify grants."""
        self.schedulers: list[Scheduler] = []
        self.trainers: list[Trainer] = []
        self.others: list[MeshProcess] = []
        self._certificates = certificates
        self.deaths: list[str] = []
        """Names of the processes that died without being taken down, in order."""

    @property
    def processes(self) -> list[MeshProcess]:
        """All services, the edge and the servers excepted."""
        return [*self.others, *self.schedulers, *self.trainers]

    @property
    def links(self) -> Iterator[FaultProxy]:
        """All TCP proxies."""
        yield self.nats_link
        yield self.catalog_link
        yield from (scheduler.postgres_link for scheduler in self.schedulers)
        for trainer in self.trainers:
            yield trainer.link
            yield trainer.nats_link

    async def start(self) -> None:
        """Starts everything."""
        await asyncio.gather(self.store.start(), self.nats_link.start(), self.catalog_link.start())
        await asyncio.gather(self.postgres.start(), self.nats.start(), self.s3.start())
        await self._make_processes()
        await asyncio.gather(*(process.start() for process in self.processes), self.edge.start())

    async def heal(self) -> None:
        """Ends every fault: all servers and services run, with clocks and ways as they should be."""
        for link in self.links:
            link.heal()
        self.store.heal()
        await asyncio.gather(*(_start_if_down(server) for server in (self.postgres, self.nats, self.s3, self.edge)))
        await asyncio.gather(*(process.make_ordinary() for process in self.processes))

    def open_jetstream(self) -> JetStream:
        """Connects to the broker as a scheduler does."""
        password = self._plan.secrets.scheduler_nats
        return connect(self.nats.url, user="scheduler", password=password, name="harness")

    def open_store(self) -> BlobStore:
        """Connects to the object store as a scheduler does, past the proxy."""
        settings = self._plan.environment("scheduler", "")
        return BlobStore(
            self.s3.endpoint,
            settings["SCHEDULER_S3_ACCESS_KEY"],
            settings["SCHEDULER_S3_SECRET_KEY"],
            settings["SCHEDULER_S3_BUCKET"],
        )

    async def wipe_nats(self) -> None:
        """Kills the broker and starts it again with nothing of what it had."""
        await self.nats.kill()
        await asyncio.to_thread(shutil.rmtree, self.nats.data_dir / "jetstream")
        await self.nats.start()

    async def keep_alive(self) -> None:
        """Starts again, for ever, what died and is wanted: somebody does so in every mesh."""
        while True:
            await asyncio.sleep(_WATCHED_SECONDS)
            dead = [each for each in self.processes if each.is_wanted and each.returncode is not None]
            self.deaths += [each.name for each in dead]
            for result in await asyncio.gather(*(each.start() for each in dead), return_exceptions=True):
                # It may be killed again while it starts; then the next round is for it.
                if isinstance(result, BaseException) and not isinstance(result, ServerNotReady):
                    raise result

    async def close(self) -> None:
        """Stops everything."""
        await asyncio.gather(*(process.take_down() for process in self.processes))
        await asyncio.gather(*(server.kill() for server in (self.edge, self.nats, self.s3)), self.postgres.stop())
        await asyncio.gather(*(proxy.close() for proxy in (*self.links, self.store)))

    async def _make_processes(self) -> None:
        ports = iter(free_ports(2 * (self.shape.schedulers + self.shape.trainers)))
        self.others += [self._other(name) for name in ("auth", "catalog")]
        for number in range(self.shape.schedulers):
            scheduler = await self._scheduler(f"scheduler-{number}", next(ports), next(ports))
            self.catalog_link.upstream_ports.append(scheduler.port)
            self.schedulers.append(scheduler)
        for number in range(self.shape.trainers):
            self.trainers.append(await self._trainer(f"trainer-{number}", next(ports), next(ports)))
        self.edge = self._edge()

    def _other(self, name: str) -> MeshProcess:
        plan = self._plan
        environment = self._environment(name, self.postgres.service_dsn(name))
        folder, log = plan.folder.part(name), plan.folder.log(name)
        return MeshProcess(name, folder, plan.target(name), service_command(name), environment, log)

    def _edge(self) -> EnvoyServer:
        plan = self._plan
        upstreams = {name: (Endpoint(LOOPBACK, plan.ports[name]),) for name in ("auth", "catalog")}
        upstreams["scheduler"] = tuple(Endpoint(LOOPBACK, scheduler.port) for scheduler in self.schedulers)
        upstreams["s3"] = (Endpoint(LOOPBACK, self.store.port),)
        settings = EdgeSettings(
            port=plan.ports["edge"],
            certificate=self._certificates.certificate,
            key=self._certificates.key,
            upstreams=upstreams,
            access_log=plan.folder.log("edge-access"),
        )
        return EnvoyServer(render_edge(settings, plan.folder.edge), plan.folder.edge)

    async def _scheduler(self, name: str, port: int, metrics_port: int) -> Scheduler:
        link = await FaultProxy(self.postgres.port).start()
        environment = {
            **self._environment("scheduler", _at_port(self.postgres.service_dsn("scheduler"), link.port)),
            "SCHEDULER_PORT": str(port),
            "SCHEDULER_METRICS_PORT": str(metrics_port),
            "SCHEDULER_NATS_URL": f"nats://{self.nats_link.target}",
        }
        folder = self._plan.folder
        command = service_command("scheduler")
        made = Scheduler(name, folder.part(name), f"{LOOPBACK}:{port}", command, environment, folder.log(name))
        made.port, made.postgres_link = port, link
        return made

    async def _trainer(self, name: str, port: int, metrics_port: int) -> Trainer:
        link = await FaultProxy(*(scheduler.port for scheduler in self.schedulers)).start()
        nats_link = await FaultProxy(self.nats.port).start()
        folder = self._plan.folder
        environment = {
            **self._environment("trainer"),
            "TRAINER_PORT": str(port),
            "TRAINER_METRICS_PORT": str(metrics_port),
            "TRAINER_NAME": name,
            "TRAINER_DATA_DIR": str(folder.part(name) / "data"),
            "TRAINER_SCHEDULER_TARGET": link.target,
            "TRAINER_NATS_URL": f"nats://{nats_link.target}",
        }
        command = service_command("trainer")
        made = Trainer(name, folder.part(name), f"{LOOPBACK}:{port}", command, environment, folder.log(name))
        made.link, made.nats_link = link, nats_link
        return made

    def _environment(self, service: str, postgres_dsn: str = "") -> dict[str, str]:
        values = {**self._plan.environment(service, postgres_dsn), **SETTINGS, **self.shape.settings}
        if service in ("catalog", "scheduler"):
            values[f"{service.upper()}_S3_ENDPOINT"] = self.store.endpoint
        if service == "catalog":
            values["CATALOG_SCHEDULER_TARGET"] = self.catalog_link.target
        return values


@contextlib.asynccontextmanager
async def running_fault_mesh(home: Path, shape: Shape | None = None) -> AsyncIterator[FaultMesh]:
    """Runs a mesh under `home` until the block ends; what dies meanwhile is started again."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    mesh = FaultMesh(home, shape or Shape())
    try:
        await mesh.start()
        keeping = asyncio.create_task(mesh.keep_alive(), name="keep the mesh alive")
        try:
            yield mesh
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
    finally:
        await mesh.close()


async def _start_if_down(server: StartableServer) -> None:
    if server.pid is None:
        await server.start()


def _at_port(dsn: str, port: int) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))
