"""The one way to build a gRPC server in the mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from meshkit.auth.principal import Caller
from meshkit.auth.revocations import NO_REVOCATIONS, Revocations
from meshkit.rpc.access import access_policy, find_service
from meshkit.rpc.failure import ErrorTable
from meshkit.rpc.interceptors.authentication import AuthenticationInterceptor, Verifier
from meshkit.rpc.interceptors.deadline import DeadlineInterceptor, DeadlineLimits
from meshkit.rpc.interceptors.errors import ErrorsInterceptor
from meshkit.rpc.interceptors.peer_identity import PeerInterceptor
from meshkit.rpc.interceptors.request_log import RequestLogInterceptor
from meshkit.rpc.interceptors.rpc_metrics import RpcMetricsInterceptor
from meshkit.rpc.interceptors.validation import ValidationInterceptor, warm_validator
from meshkit.rpc.peers import NO_PEERS, Peers, peer_policy
from meshkit.rpc.registration import ServicerRegistration, add_to_server, service_names
from meshkit.rpc.tolerance import TolerantHandlers, UnknownRpcs
from meshkit.settings import ServiceSettings

_METADATA_LIMIT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class BoundServer:
    """A gRPC server that is bound and not yet started."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    """Says SERVING unless told otherwise; `run_service` tells it."""
    port: int
    service_names: tuple[str, ...]


def build_server(
    settings: ServiceSettings,
    registrations: Sequence[ServicerRegistration],
    *,
    error_table: ErrorTable,
    verifier: Verifier,
    long_rpcs: frozenset[str] = frozenset(),
    revocations: Revocations = NO_REVOCATIONS,
    metrics: CollectorRegistry | None = None,
    peers: Peers = NO_PEERS,
) -> BoundServer:
    """Returns a server with all interceptors, health and (if set) reflection, bound to `settings.host:port`.

    `long_rpcs` are full paths (`/pkg.Service/Rpc`) of streams that no deadline of ours may end. `peers` says what each
    identity may call where TLS is mutual; nobody may call anything else there but health.

    Raises:
        AccessUndeclared: an rpc does not say who may call it.
        ValueError: `long_rpcs` or `peers` names something that these services do not have.
    """
    names = tuple(service_names(registrations))
    _check_long_rpcs(long_rpcs, names)
    warm_validator(names)
    policy = access_policy((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
    server = grpc.aio.server(
        interceptors=interceptor_chain(
            error_table=error_table,
            verifier=verifier,
            policy=policy,
            revocations=revocations,
            limits=DeadlineLimits(
                unary_seconds=settings.unary_deadline_seconds,
                stream_seconds=settings.stream_deadline_seconds,
                long_rpcs=long_rpcs | _LONG_STANDARD_RPCS,
            ),
            metrics=metrics or CollectorRegistry(),
            peers=peer_policy(peers, policy) if settings.tls_client_ca else None,
        ),
        options=_options(settings),
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
    )
    for registration in registrations:
        add_to_server(registration, server)
    health_servicer = _add_standard_services(server, names, settings.reflection)
    server.add_generic_rpc_handlers((UnknownRpcs(),))
    port = _bind(server, settings)
    return BoundServer(server, health_servicer, port, names)


_LONG_STANDARD_RPCS = frozenset({f"/{health.SERVICE_NAME}/Watch", f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"})


def interceptor_chain(
    *,
    error_table: ErrorTable,
    verifier: Verifier,
    policy: dict[str, frozenset[Caller]],
    revocations: Revocations,
    limits: DeadlineLimits,
    metrics: CollectorRegistry,
    peers: Mapping[str, frozenset[str]] | None = None,
) -> list[grpc.aio.ServerInterceptor]:
    """Returns the interceptors in the order in which every rpc meets them.

    Log and metrics see calls that are refused; the deadline covers the check of the token; errors of auth and
    validation are translated like any other; nobody unknown makes the server validate a large message.
    """
    return [
        TolerantHandlers(),
        RequestLogInterceptor(),
        RpcMetricsInterceptor(metrics, frozenset(policy)),
        DeadlineInterceptor(limits),
        ErrorsInterceptor(error_table),
        *(() if peers is None else (PeerInterceptor(peers),)),
        AuthenticationInterceptor(verifier, policy, revocations),
        ValidationInterceptor(),
    ]


def _check_long_rpcs(long_rpcs: frozenset[str], names: Sequence[str]) -> None:
    streams = {
        f"/{name}/{method.name}"
        for name in names
        for method in find_service(name).methods
        if method.client_streaming or method.server_streaming
    }
    unknown = sorted(long_rpcs - streams)
    if unknown:
        raise ValueError(f"long_rpcs names {unknown[0]}, which is not a stream of {', '.join(names)}")


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", _METADATA_LIMIT_BYTES),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls silently
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # A trainer finds out within a fraction of its lease that a replica is frozen: its pings come every few seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 900),
        ("grpc.http2.max_ping_strikes", 3),
        ("grpc.max_concurrent_streams", settings.max_concurrent_rpcs),
    ]
    if settings.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)))
        options.append(
            ("grpc.max_connection_age_grace_ms", 3_600_000)
        )  # streams end by themselves, not by reconnection
    return options


def _add_standard_services(
    server: grpc.aio.Server, names: Sequence[str], has_reflection: bool
) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    add_to_server(ServicerRegistration(health_pb2_grpc.add_HealthServicer_to_server, servicer), server)
    if has_reflection:
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return servicer


def _bind(server: grpc.aio.Server, settings: ServiceSettings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        if settings.tls_certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(settings))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is another process using the port?") from error


def _credentials(settings: ServiceSettings) -> grpc.ServerCredentials:
    if settings.tls_certificate is None or settings.tls_key is None:
        raise ValueError("tls_certificate and tls_key must be set together")
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials([pair], settings.tls_client_ca.read_bytes(), require_client_auth=True)
