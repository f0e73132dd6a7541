"""Channels to other services: with a deadline on every unary call, and the current request's id and remaining time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from meshkit.rpc.request_context import REQUEST_ID_KEY, current_request_id, remaining_seconds

if TYPE_CHECKING:
    # Clients that are no services use this module, too, and have no use for pydantic.
    from meshkit.settings import ServiceSettings

DEFAULT_DEADLINE_SECONDS = 10.0
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024


def open_channel(
    target: str,
    *,
    tls_ca: Path | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    default_deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
    max_message_bytes: int = _MAX_MESSAGE_BYTES,
    max_reconnect_backoff_seconds: float = 5,
    keepalive_seconds: float = 12,
    keepalive_timeout_seconds: float = 6,
) -> grpc.aio.Channel:
    """Returns a channel to `host:port`; `tls_ca` (a PEM file) makes it TLS, certificate and key make it mutual.

    A peer that says nothing while a call is open is pinged after `keepalive_seconds`, and the connection given up after
    `keepalive_timeout_seconds` more: all its calls end UNAVAILABLE, and the next ones find another peer. No less than
    a second each, which is what servers bear.

    Unary calls get `default_deadline_seconds` unless they say otherwise; none gets more than the rpc being served has.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", int(max(1.0, keepalive_seconds) * 1000)),
        ("grpc.keepalive_timeout_ms", int(max(1.0, keepalive_timeout_seconds) * 1000)),
        # The same for the pings that measure the connection: while one is under way (for a minute, by default) no other
        # is sent, and a peer that hangs just then would be found out by none.
        ("grpc.http2.ping_timeout_ms", int(max(1.0, keepalive_timeout_seconds) * 1000)),
        # By default a peer is pinged twice, and then not again until there is something to be sent.
        ("grpc.http2.max_pings_without_data", 0),
        # A service that restarts must be found again at once, not after grpc's two minutes.
        ("grpc.max_reconnect_backoff_ms", int(max_reconnect_backoff_seconds * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
    ]
    interceptors = _interceptors(default_deadline_seconds)
    if tls_ca is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(
        tls_ca.read_bytes(),
        tls_key.read_bytes() if tls_key else None,
        tls_certificate.read_bytes() if tls_certificate else None,
    )
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


def open_peer_channel(settings: ServiceSettings, target: str, **options: float) -> grpc.aio.Channel:
    """Returns a channel from the service with these settings to another one, by TLS where they name an authority.

    The service shows its own certificate, if it has one. `options` are those of `open_channel`.
    """
    return open_channel(
        target,
        tls_ca=settings.peer_tls_ca,
        tls_certificate=settings.tls_certificate,
        tls_key=settings.tls_key,
        **options,  # type: ignore[arg-type]  # numbers all
    )


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Returns the call metadata that carries a token: `stub.GetMe(request, metadata=bearer(token))`."""
    return (("authorization", f"Bearer {token}"),)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, default_seconds: float) -> None:
        self._default = default_seconds

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_outgoing(client_call_details, self._default), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(_outgoing(client_call_details, None), request_iterator)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_outgoing(client_call_details, None), request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(_outgoing(client_call_details, None), request_iterator)


def _interceptors(default_seconds: float) -> list[grpc.aio.ClientInterceptor]:
    # grpc.aio sorts interceptors by base class and takes each for one kind of call only, hence four.
    return [_UnaryUnary(default_seconds), _StreamUnary(), _UnaryStream(), _StreamStream()]


def _outgoing(details: grpc.aio.ClientCallDetails, default_seconds: float | None) -> grpc.aio.ClientCallDetails:
    limits = [seconds for seconds in (details.timeout or default_seconds, remaining_seconds()) if seconds is not None]
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    request_id = current_request_id()
    if request_id and metadata.get(REQUEST_ID_KEY) is None:
        metadata.add(REQUEST_ID_KEY, request_id)
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=min(limits, default=None),
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )
