"""Renders the edge: Envoy's configuration from the one template, with the contracts' descriptor set beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from meshkit.rpc.peers import TRUST_DOMAIN
from reeltune_cli.stack.edge_contract import EXPOSED_SERVICES, ExposedRpc, descriptor_set, exposed_rpcs
from reeltune_cli.stack.edge_replies import EDGE_REPLIES
from reeltune_cli.stack.site import Site

CONFIG_NAME = "envoy.yaml"
DESCRIPTORS_NAME = "reeltune.protoset"
SECRETS_NAME = "secrets.json"
TEMPLATE_NAME = "envoy.yaml.j2"
_RATE_LIMITED = frozenset({"reeltune.auth.v1.AuthService.Login", "reeltune.auth.v1.AuthService.SignUp"})
_ROUTED_BY_JOB = frozenset({"reeltune.trainer.v1.InferenceService.Generate"})
LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an upstream listens."""

    host: str
    port: int

    @classmethod
    def from_target(cls, target: str) -> Endpoint:
        """Reads `host:port`, with or without `http://` before it.

        Raises:
            ValueError: there is no port in it.
        """
        host, separator, port = target.removeprefix("http://").rstrip("/").rpartition(":")
        if not separator or not port.isdigit():
            raise ValueError(f"{target!r} is not host:port")
        return cls(host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class PeerTls:
    """What the edge shows to services and knows them by, where calls between services are by mutual TLS."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Everything in which one edge differs from another."""

    port: int
    """Port of the public listener; 0 takes a free one."""
    certificate: Path
    key: Path
    upstreams: Mapping[str, tuple[Endpoint, ...]]
    """Endpoints of `auth`, `catalog`, `scheduler`, `trainer` and `s3`; a cluster without any answers 503."""
    access_log: Path | None
    """None: the standard output."""
    site: Site | None = None
    """The browser's pages; without them the edge serves programs only."""
    host: str = "127.0.0.1"
    follows_certificate: bool = False
    """Whether another certificate that is put in place of this one, by renaming, is shown from then on."""
    admin_port: int = 0
    """Port of Envoy's admin endpoint on loopback; 0 takes a free one."""
    metrics_port: int | None = None
    """Port that shows Envoy's metrics, and nothing else of its admin endpoint, at `/metrics`; needs `admin_port`."""
    peer_tls: PeerTls | None = None
    healthy_with: tuple[str, ...] | None = None
    """Upstreams that `/healthz` wants to be there; None: all that have an endpoint."""
    allowed_origin_pattern: str = LOOPBACK_ORIGIN
    """RE2 pattern of the whole `Origin` of pages that may call the edge from a browser."""
    sign_ins_per_minute: int = 300
    """Log-ins and sign-ups that one address may send in a minute."""
    max_json_body_bytes: int = 5 * 1024 * 1024
    """Largest body of an HTTP/JSON call: room for a clip of 3 MiB in base64."""
    unary_timeout_seconds: int = 40
    """Longest wait for the answer to a unary call; the services' own limit is shorter."""
    stream_idle_seconds: int = 300
    """Longest silence on a stream; the services' heartbeats come every 15 s."""
    put_seconds: int = 900
    """Longest time for one PUT to the object store: a part of 8 MiB at 75 kbit/s. The catalog looks once more at what a
    URL may have written when that and such a PUT have ended, and counts on this limit."""
    jwks_max_age_seconds: int = 60
    """How long a rotated-out signing key is still believed, and how old a key set may be when a new key signs."""


def render_edge(settings: EdgeSettings, folder: Path) -> Path:
    """Writes the configuration and the descriptor set into `folder` and returns the configuration's path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptors = folder / DESCRIPTORS_NAME
    descriptors.write_bytes(descriptor_set())
    secrets = _write_secrets(settings, folder) if settings.follows_certificate else None
    config = folder / CONFIG_NAME
    config.write_text(edge_config(settings, descriptors, secrets), "utf-8")
    return config


def _write_secrets(settings: EdgeSettings, folder: Path) -> Path:
    """Writes where the public certificate is, in the form that Envoy follows."""
    certificate = {
        "certificate_chain": {"filename": str(settings.certificate)},
        "private_key": {"filename": str(settings.key)},
        "watched_directory": {"path": str(settings.certificate.parent)},
    }
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    path = folder / SECRETS_NAME
    resources = [{"@type": kind, "name": "public", "tls_certificate": certificate}]
    path.write_text(json.dumps({"resources": resources}), "utf-8")
    return path


def edge_config(settings: EdgeSettings, descriptors: Path, secrets: Path | None = None) -> str:
    """Returns the configuration as text; `secrets` is the file that says where a followed certificate is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 -- YAML, not HTML; every value goes through `tojson`
    )
    rpcs = exposed_rpcs()
    return environment.get_template(TEMPLATE_NAME).render(
        settings=settings,
        descriptors=descriptors,
        secrets=secrets,
        services=[name for names in EXPOSED_SERVICES.values() for name in names],
        clusters=list(EXPOSED_SERVICES),
        health_clusters=_health_clusters(settings),
        trust_domain=TRUST_DOMAIN,
        public_pattern=_any_of(pattern for rpc in rpcs if rpc.is_public for pattern in rpc.patterns),
        routes=_routes(rpcs),
        replies=EDGE_REPLIES,
    )


def _health_clusters(settings: EdgeSettings) -> list[str]:
    wanted = EXPOSED_SERVICES if settings.healthy_with is None else settings.healthy_with
    return [name for name in wanted if settings.upstreams.get(name)]


def template_folder() -> Path:
    """Returns the folder `envoy/`: in a checkout at the top, in an installed package under `reeltune_cli/edge`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "edge", package.parent / "envoy"):
        if (folder / TEMPLATE_NAME).is_file():
            return folder
    raise FileNotFoundError(f"{TEMPLATE_NAME} is neither in {package / 'edge'} nor in {package.parent / 'envoy'}")


@dataclass(frozen=True, slots=True)
class _Route:
    """Paths that the edge treats alike: a few alternations are quicker to match than a hundred routes."""

    cluster: str
    kind: str
    """`sign-in` (limited by address), `by-job` (hashed by job), `stream` or `unary`."""
    http_method: str = ""
    """Empty for gRPC and gRPC-Web."""
    response_field: str = ""

    @property
    def name(self) -> str:
        """Name in the access log."""
        return "-".join(filter(None, (self.cluster, self.kind, self.http_method.lower() or "rpc", self.response_field)))


def _routes(rpcs: list[ExposedRpc]) -> list[tuple[_Route, str]]:
    routes: dict[_Route, list[str]] = {}
    for rpc in rpcs:
        kind = _kind(rpc)
        routes.setdefault(_Route(rpc.cluster, kind), []).append(re.escape(rpc.path))
        for binding in rpc.http_bindings:
            route = _Route(rpc.cluster, kind, binding.method, binding.response_field)
            routes.setdefault(route, []).append(binding.pattern)
    return [(route, _any_of(patterns)) for route, patterns in routes.items()]


def _kind(rpc: ExposedRpc) -> str:
    if rpc.full_name in _RATE_LIMITED:
        return "sign-in"
    if rpc.full_name in _ROUTED_BY_JOB:
        return "by-job"
    return "stream" if rpc.is_server_stream or rpc.is_client_stream else "unary"


def _any_of(patterns: Iterable[str]) -> str:
    return "|".join(dict.fromkeys(patterns))
