"""The settings of the auth service, from environment variables that begin with `AUTH_`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, IPvAnyNetwork, SecretStr

from auth_svc.domain.password import LENGTH_FLOOR, MAX_LENGTH
from meshkit.settings import ServiceSettings


class AuthSettings(ServiceSettings, env_prefix="AUTH_"):
    """Where the service keeps its data and how strict it is."""

    postgres_dsn: SecretStr
    postgres_pool_size: int = Field(default=10, ge=1, le=100)
    keys_dir: Path
    """Folder of the signing keys and the refresh key; made on first start, shared by replicas."""
    page_token_secret: SecretStr = Field(min_length=16)

    max_message_bytes: int = Field(default=1024 * 1024, ge=1024)

    password_min_length: int = Field(default=15, ge=LENGTH_FLOOR, le=MAX_LENGTH)
    argon2_memory_kib: int = Field(default=64 * 1024, ge=19 * 1024)
    argon2_time_cost: int = Field(default=3, ge=2)
    argon2_parallelism: int = Field(default=4, ge=1, le=64)
    password_threads: int = Field(default=2, ge=1, le=64)
    """Passwords hashed at once; each takes `argon2_memory_kib` of memory."""
    password_max_waiting: int = Field(default=128, ge=0)
    """Passwords that may wait for a thread; further ones are told to come back."""

    login_free_failures: int = Field(default=5, ge=1)
    login_first_delay_seconds: float = Field(default=1, gt=0)
    login_max_delay_seconds: float = Field(default=60, gt=0)
    login_forget_seconds: float = Field(default=3600, gt=0)
    address_failures: int = Field(default=60, ge=1)
    """Failed log-ins at once from one address (an IPv6 /64 counts as one)."""
    address_failures_per_second: float = Field(default=1, gt=0)
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(default=("127.0.0.0/8", "::1/128"), validate_default=True)
    """Peers whose `x-forwarded-for` is believed: where Envoy is."""

    access_token_seconds: int = Field(default=600, ge=1, le=3600)
    refresh_token_days: float = Field(default=30, gt=0, le=365)
    session_days: float = Field(default=90, gt=0, le=3650)
    refresh_replay_seconds: float = Field(default=20, ge=0, le=300)
    key_activation_seconds: float = Field(default=600, ge=0)
    """How long a new signing key is published before it signs: the time for which others keep the public keys."""
