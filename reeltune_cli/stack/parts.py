"""The processes of the mesh on one machine: what each is, what it waits for, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshkit.embedded import EnvoyServer, NatsServer, PostgresServer, S3Server
from meshkit.embedded.process import StartableServer
from reeltune_cli.stack.certificates import EdgeCertificates
from reeltune_cli.stack.edge import EdgeSettings, Endpoint, render_edge
from reeltune_cli.stack.environment import SCHEMAS, StackPlan, is_tls
from reeltune_cli.stack.ports import LOOPBACK
from reeltune_cli.stack.server_access import nats_users, s3_identities
from reeltune_cli.stack.service_process import ServiceProcess
from reeltune_cli.stack.site import load_site

PORT_NAMES = (
    "postgres",
    "nats",
    "s3",
    *(f"{name}{kind}" for name in (*SCHEMAS, "trainer") for kind in ("", "-metrics")),
)
STOP_ORDER = (("trainer",), ("edge",), ("scheduler", "catalog", "auth"), ("s3", "nats", "postgres"))
"""A trainer gives its job back while all it needs is still there, the object store behind the edge included."""
STOP_SECONDS = {"trainer": 13.0, "edge": 2.0, "scheduler": 6.0, "catalog": 6.0, "auth": 6.0}
"""Longest time that each may take; with the servers' the sum of the four groups is below 30 s."""
SERVER_STOP_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Part:
    """One process."""

    server: StartableServer
    address: str
    after: tuple[str, ...] = ()
    """Names of the parts that must be ready first."""

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def stop_seconds(self) -> float:
        """How long it may take to stop before it is killed."""
        return STOP_SECONDS.get(self.name, SERVER_STOP_SECONDS)


def build_parts(plan: StackPlan, certificates: EdgeCertificates) -> dict[str, Part]:
    """Returns the processes by name, in the order in which a person would list them; nothing is started."""
    parts = {part.name: part for part in (*_servers(plan), *_services(plan), _edge(plan, certificates))}
    for name, part in parts.items():
        plan.folder.roll_log(name)
        part.server.log_path = plan.folder.log(name)
    return parts


class MeshPostgres(PostgresServer):
    """The database server with a role and a schema for each service."""

    def __init__(self, plan: StackPlan) -> None:
        super().__init__(plan.folder.part("postgres"), port=plan.ports["postgres"])
        self._passwords = {name: getattr(plan.secrets, f"{name}_postgres") for name in SCHEMAS}

    async def start(self) -> None:
        """Starts the server and makes the roles and schemas that are missing."""
        await super().start()
        for name, password in self._passwords.items():
            await self.create_role_and_schema(name, password, name)

    def service_dsn(self, service: str) -> str:
        """Returns the connection string of one service's role."""
        return self.role_dsn(service, self._passwords[service])


def _servers(plan: StackPlan) -> Iterator[Part]:
    if plan.options.postgres_dsn is None:
        yield Part(MeshPostgres(plan), plan.target("postgres"))
    if plan.options.nats is None:
        nats = NatsServer(plan.folder.part("nats"), nats_users(plan.secrets), port=plan.ports["nats"])
        yield Part(nats, plan.target("nats"))
    if plan.options.s3 is None:
        s3 = S3Server(plan.folder.part("s3"), s3_identities(plan.secrets), port=plan.ports["s3"])
        yield Part(s3, plan.target("s3"))


def _services(plan: StackPlan) -> Iterator[Part]:
    embedded = {
        "postgres": plan.options.postgres_dsn is None,
        "s3": plan.options.s3 is None,
    }
    needs = {"auth": ("postgres",), "catalog": ("postgres", "s3"), "scheduler": ("postgres", "s3")}
    for name in SCHEMAS:
        dsn = plan.options.postgres_dsn or MeshPostgres(plan).service_dsn(name)
        yield _service(plan, name, tuple(need for need in needs[name] if embedded[need]), dsn)
    if plan.options.has_trainer:
        # It waits for nobody by itself; after the others it does not take their processor time while they start.
        yield _service(plan, "trainer", SCHEMAS)


def _service(plan: StackPlan, name: str, after: tuple[str, ...], postgres_dsn: str = "") -> Part:
    process = ServiceProcess(
        name,
        plan.folder.part(name),
        plan.target(name),
        plan.environment(name, postgres_dsn),
        stop_timeout_seconds=STOP_SECONDS[name],
    )
    return Part(process, plan.target(name), after)


def _edge(plan: StackPlan, certificates: EdgeCertificates) -> Part:
    upstreams = {name: (Endpoint(LOOPBACK, plan.ports[name]),) for name in SCHEMAS}
    if plan.options.has_trainer:
        upstreams["trainer"] = (Endpoint(LOOPBACK, plan.ports["trainer"]),)
    if plan.options.s3 is None:
        upstreams["s3"] = (Endpoint(LOOPBACK, plan.ports["s3"]),)
    elif not is_tls(plan.options.s3.endpoint):
        upstreams["s3"] = (Endpoint.from_target(plan.options.s3.endpoint),)
    settings = EdgeSettings(
        port=plan.ports["edge"],
        certificate=certificates.certificate,
        key=certificates.key,
        upstreams=upstreams,
        access_log=plan.folder.log("edge-access"),
        site=load_site(object_origins=_object_origins(plan)),
    )
    plan.folder.roll_log("edge-access")
    server = EnvoyServer(render_edge(settings, plan.folder.edge), plan.folder.edge)
    server.name = "edge"
    return Part(server, plan.target("edge"))


def _object_origins(plan: StackPlan) -> tuple[str, ...]:
    """Where presigned URLs lead: through the edge, or straight to an external store that speaks TLS."""
    if plan.options.s3 is not None and is_tls(plan.options.s3.endpoint):
        return (plan.options.s3.endpoint.rstrip("/"),)
    return (plan.edge_url,)
