"""What a user can say to `reeltune up`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

DEFAULT_EDGE_PORT = 8443


def reeltune_home() -> Path:
    """Returns `$REELTUNE_HOME`, by default `~/.reeltune`."""
    return Path(os.environ.get("REELTUNE_HOME") or "~/.reeltune").expanduser()


@dataclass(frozen=True, slots=True)
class ExternalNats:
    """A NATS server that somebody else runs, with a user for both the scheduler and the trainer."""

    url: str
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class ExternalS3:
    """An object store that somebody else runs."""

    endpoint: str
    """`http://host:port` or `https://host`."""
    access_key: str
    secret_key: str
    bucket: str


@dataclass(frozen=True, slots=True)
class UpOptions:
    """How the mesh is to be run."""

    data: Path
    port: int | None = None
    """Of the edge; None for the remembered or the default one, 0 for a free one."""
    has_trainer: bool = True
    device: str = "auto"
    threads: int = 0
    trainer_profile: str = ""
    """A machine that the trainer stands for."""
    postgres_dsn: str | None = None
    """An external database: each service uses its own schema in it."""
    nats: ExternalNats | None = None
    s3: ExternalS3 | None = None
    log_level: str = "info"


def external_nats(url: str) -> ExternalNats:
    """Reads `nats://user:password@host:port`.

    Raises:
        ValueError: something is missing in it; the text does not repeat the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("nats", "tls") or not (parts.hostname and parts.username and parts.password):
        raise ValueError("--nats-url must be nats://user:password@host:port")
    address = f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}"
    return ExternalNats(address, unquote(parts.username), unquote(parts.password))


def external_s3(endpoint: str, access_key: str, secret_key: str, bucket: str) -> ExternalS3:
    """Checks what was said of an external object store.

    Raises:
        ValueError: something is missing.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or (parts.scheme == "http" and not parts.port):
        raise ValueError("--s3-endpoint must be http://host:port or https://host")
    if not access_key or not secret_key:
        raise ValueError("--s3-endpoint needs REELTUNE_S3_ACCESS_KEY and REELTUNE_S3_SECRET_KEY in the environment")
    return ExternalS3(endpoint.rstrip("/"), access_key, secret_key, bucket)
