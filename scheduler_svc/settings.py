"""The settings of the scheduler, from environment variables that begin with `SCHEDULER_`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from meshkit.settings import ServiceSettings


class SchedulerSettings(ServiceSettings, env_prefix="SCHEDULER_"):
    """Where the service finds its servers, and how patient it is."""

    postgres_dsn: SecretStr
    postgres_pool_size: int = Field(default=16, ge=2, le=100)
    page_token_secret: SecretStr = Field(min_length=16)
    keys_dir: Path
    """Folder of the keys that sign worker tokens and grants; made on first start, shared by replicas."""
    join_secret: SecretStr = Field(min_length=16)
    """What trainers prove themselves with."""

    nats_url: str
    nats_user: str
    nats_password: SecretStr

    s3_endpoint: str
    """E.g. `http://127.0.0.1:28333`."""
    s3_public_url: str | None = None
    """Where clients reach the object store, e.g. `https://127.0.0.1:8443/s3`; by default the endpoint."""
    s3_access_key: str
    s3_secret_key: SecretStr
    s3_bucket: str = "reeltune"
    s3_ca_file: Path | None = None
    part_bytes: int = Field(default=64 * 1024**2, ge=5 * 1024**2, le=1024**3)
    """Larger files of attempts are stored in parts of this size; S3 takes no part under 5 MiB but the last."""

    auth_target: str
    catalog_target: str

    lease_seconds: float = Field(default=30, gt=0)
    heartbeat_seconds: float = Field(default=5, gt=0)
    """How often trainers are expected to say that they live; the lease must outlast several."""
    sweep_seconds: float = Field(default=5, gt=0)
    stop_grace_seconds: float = Field(default=30, gt=0)
    watch_heartbeat_seconds: float = Field(default=15, gt=0)
    max_watches: int = Field(default=2048, ge=1)
    """Watches that one replica keeps open; well below `max_concurrent_rpcs`, so that other calls always find room."""
    max_watches_per_user: int = Field(default=1024, ge=1)
    """Watches of one user among them."""
    max_concurrent_rpcs: int = Field(default=4096, ge=1)
    unary_deadline_seconds: float = Field(default=300, gt=0)
    """Long enough to read and verify every byte of a large artifact; clients set shorter ones of their own."""

    @model_validator(mode="after")
    def _lease_outlasts_heartbeats(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                "lease_seconds must be at least twice heartbeat_seconds: one lost heartbeat must cost nothing"
            )
        return self

    @model_validator(mode="after")
    def _watches_leave_room(self) -> Self:
        if self.max_watches >= self.max_concurrent_rpcs:
            raise ValueError("max_watches must be less than max_concurrent_rpcs: watches must not shut out other calls")
        return self
