"""The edge as a container: rendered when it starts, from the same template as everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from meshkit.embedded import free_port
from meshkit.embedded.envoy import envoy_binary, validate_envoy_config
from reeltune_cli.stack.edge import LOOPBACK_ORIGIN, EdgeSettings, Endpoint, PeerTls, render_edge
from reeltune_cli.stack.site import load_site


@dataclass(frozen=True, slots=True)
class ContainerEdge:
    """How one edge of a cluster is run. Folders of certificates hold `tls.crt`, `tls.key` and `ca.crt`."""

    folder: Path
    """Where its configuration is written: it must be writable, and need not outlive the container."""
    upstreams: Mapping[str, str]
    """`host:port` of `auth`, `catalog`, `scheduler`, `trainer` and `s3`."""
    public_tls: Path
    peer_tls: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104 -- a container's own address
    port: int = 8443
    object_origins: tuple[str, ...] = ()
    """Origins of presigned URLs, where pages send files to: the edge's public URL, or a store's own."""
    allowed_origin_pattern: str = LOOPBACK_ORIGIN
    healthy_with: tuple[str, ...] = ("auth",)
    metrics_port: int | None = None
    concurrency: int = 2


def render_container_edge(wanted: ContainerEdge) -> Path:
    """Writes the edge's configuration, asks Envoy whether it would take it, and returns its path.

    Raises:
        ValueError: an upstream is not `host:port`.
        ServerNotReady: Envoy refuses it; the text quotes why.
        FileNotFoundError: Envoy is not installed.
    """
    peer = wanted.peer_tls
    settings = EdgeSettings(
        port=wanted.port,
        host=wanted.host,
        certificate=wanted.public_tls / "tls.crt",
        key=wanted.public_tls / "tls.key",
        upstreams={name: (Endpoint.from_target(target),) for name, target in wanted.upstreams.items()},
        access_log=None,
        follows_certificate=True,
        admin_port=free_port() if wanted.metrics_port else 0,
        metrics_port=wanted.metrics_port,
        site=load_site(object_origins=wanted.object_origins),
        peer_tls=PeerTls(peer / "ca.crt", peer / "tls.crt", peer / "tls.key") if peer else None,
        healthy_with=wanted.healthy_with,
        allowed_origin_pattern=wanted.allowed_origin_pattern,
    )
    config = render_edge(settings, wanted.folder)
    validate_envoy_config(config)
    return config


def run_edge(wanted: ContainerEdge) -> NoReturn:
    """Renders the edge and replaces this process by Envoy, so that signals and the exit code are its own."""
    config = render_container_edge(wanted)
    # Envoy's sockets are relative to where it runs.
    os.chdir(wanted.folder)
    binary = envoy_binary()
    arguments = ["-c", str(config), "--disable-hot-restart", "--concurrency", str(wanted.concurrency)]
    os.execv(binary, [binary, *arguments, "--log-level", "warning"])  # noqa: S606
