"""The settings that every service has; each service subclasses them with its own environment prefix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


SETTINGS_DIR_VARIABLE = "REELTUNE_SETTINGS_DIR"
"""Names a folder with a file for each setting that is not to stand in the environment: `auth_postgres_dsn` holds what
`AUTH_POSTGRES_DSN` would. So containers are given secrets, which an environment shows to whoever may look at it."""


class ServiceSettings(BaseSettings):
    """Frozen settings of one service, read once, in `__main__`: from the environment, then from the settings folder.

    A service writes `class AuthSettings(ServiceSettings, env_prefix="AUTH_")`; its secrets are `SecretStr`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one, which `service.ready` names."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus endpoint; 0 takes a free one."""
    health_port: int | None = Field(default=None, ge=0, le=65535)
    """Port that answers `GET /live` and `GET /ready` over plain HTTP, for who runs containers; None: no such port."""
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"
    reflection: bool = False
    """Serve gRPC reflection: on for one machine, off in production."""
    shutdown_grace_seconds: float = Field(default=20, ge=0, le=300)
    """How long running rpcs may go on after SIGTERM."""
    startup_timeout_seconds: float = Field(default=60, gt=0)
    """How long the service may take until it is ready; after that it exits with an error."""
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_concurrent_rpcs: int = Field(default=512, ge=1)
    max_connection_age_seconds: float = Field(default=0, ge=0)
    """Connections are asked to reconnect after this time, so that load spreads over new replicas; 0 means never."""
    unary_deadline_seconds: float = Field(default=30, gt=0)
    """Longest time a unary rpc may take, whatever the client asked for."""
    stream_deadline_seconds: float = Field(default=600, gt=0)
    """Longest time a stream may take that its service did not list in `long_rpcs`."""
    revocation_poll_seconds: float = Field(default=15, gt=0, le=30)
    """How often the auth service is asked which sessions have ended."""
    tls_certificate: Path | None = None
    """PEM chain of this service; with `tls_key`, the port speaks TLS, and other services are shown it."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM of the authority that client certificates must come from; set, it makes TLS mutual, and only the rpcs that
    the service names for the certificate's identity (`spiffe://reeltune/NAME`) are served."""
    peer_tls_ca: Path | None = None
    """PEM of the authority of the other services' certificates; None: they are called without TLS."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds the settings folder, where there is one.

        Raises:
            SettingsError: the variable names no folder.
        """
        folder = os.environ.get(SETTINGS_DIR_VARIABLE)
        if not folder:
            return init_settings, env_settings
        if not Path(folder).is_dir():
            raise SettingsError(f"{SETTINGS_DIR_VARIABLE} is {folder!r}, which is no folder")
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)
