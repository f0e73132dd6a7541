"""The settings that each service is started with, as environment variables."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from reeltune_cli.stack.folder import StackFolder
from reeltune_cli.stack.options import UpOptions
from reeltune_cli.stack.ports import LOOPBACK
from reeltune_cli.stack.secrets_file import StackSecrets
from reeltune_cli.stack.server_access import BUCKETS

SERVICES = ("auth", "catalog", "scheduler", "trainer")
SCHEMAS = ("auth", "catalog", "scheduler")
"""Services with a database schema; the role has the same name."""
_GRACE_SECONDS = {"auth": 2, "catalog": 2, "scheduler": 2, "trainer": 10}
_PUBLIC_PREFIX = "/s3"


@dataclass(frozen=True, slots=True)
class StackPlan:
    """All that is decided before anything starts."""

    options: UpOptions
    folder: StackFolder
    secrets: StackSecrets
    ports: dict[str, int]
    ca_file: Path

    @property
    def edge_url(self) -> str:
        return f"https://{LOOPBACK}:{self.ports['edge']}"

    def target(self, name: str) -> str:
        """`host:port` of a process."""
        return f"{LOOPBACK}:{self.ports[name]}"

    def environment(self, service: str, postgres_dsn: str = "") -> dict[str, str]:
        """Returns the variables of one service; `postgres_dsn` for those with a schema."""
        values = {
            "HOST": LOOPBACK,
            "PORT": str(self.ports[service]),
            "METRICS_PORT": str(self.ports[f"{service}-metrics"]),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": self.options.log_level,
            "REFLECTION": "true",
            "SHUTDOWN_GRACE_SECONDS": str(_GRACE_SECONDS[service]),
        }
        if service in SCHEMAS:
            values["POSTGRES_DSN"] = postgres_dsn
            values["PAGE_TOKEN_SECRET"] = getattr(self.secrets, f"{service}_page_tokens")
        values |= {
            "auth": self._auth,
            "catalog": self._catalog,
            "scheduler": self._scheduler,
            "trainer": self._trainer,
        }[service]()
        return {f"{service.upper()}_{name}": value for name, value in values.items()}

    def _auth(self) -> dict[str, str]:
        return {"KEYS_DIR": str(self.folder.part("auth") / "keys")}

    def _catalog(self) -> dict[str, str]:
        return {
            **self._s3("catalog"),
            "AUTH_TARGET": self.target("auth"),
            "SCHEDULER_TARGET": self.target("scheduler"),
            "STORAGE_KEY": self.secrets.catalog_storage_key,
            **_model_tool(),
        }

    def _scheduler(self) -> dict[str, str]:
        return {
            **self._s3("scheduler"),
            **self._nats("scheduler"),
            "AUTH_TARGET": self.target("auth"),
            "CATALOG_TARGET": self.target("catalog"),
            "KEYS_DIR": str(self.folder.part("scheduler") / "keys"),
            "JOIN_SECRET": self.secrets.join_secret,
        }

    def _trainer(self) -> dict[str, str]:
        return {
            **self._nats("trainer"),
            "SCHEDULER_TARGET": self.target("scheduler"),
            "CATALOG_TARGET": self.target("catalog"),
            "AUTH_TARGET": self.target("auth"),
            "JOIN_SECRET": self.secrets.join_secret,
            "DATA_DIR": str(self.folder.part("trainer") / "data"),
            "TLS_CA": str(self.ca_file),
            "NAME": platform.node() or "local",
            "DEVICE": self.options.device,
            **({"PROFILE": self.options.trainer_profile} if self.options.trainer_profile else {}),
            "THREADS": str(self.options.threads),
        }

    def _nats(self, user: str) -> dict[str, str]:
        if external := self.options.nats:
            return {"NATS_URL": external.url, "NATS_USER": external.user, "NATS_PASSWORD": external.password}
        return {
            "NATS_URL": f"nats://{self.target('nats')}",
            "NATS_USER": user,
            "NATS_PASSWORD": getattr(self.secrets, f"{user}_nats"),
        }

    def _s3(self, service: str) -> dict[str, str]:
        if external := self.options.s3:
            return {
                "S3_ENDPOINT": external.endpoint,
                # A store with TLS of its own is reached directly: the edge would only stand in between.
                "S3_PUBLIC_URL": external.endpoint if is_tls(external.endpoint) else f"{self.edge_url}{_PUBLIC_PREFIX}",
                "S3_ACCESS_KEY": external.access_key,
                "S3_SECRET_KEY": external.secret_key,
                "S3_BUCKET": external.bucket,
            }
        return {
            "S3_ENDPOINT": f"http://{self.target('s3')}",
            "S3_PUBLIC_URL": f"{self.edge_url}{_PUBLIC_PREFIX}",
            "S3_ACCESS_KEY": service,
            "S3_SECRET_KEY": getattr(self.secrets, f"{service}_s3"),
            "S3_BUCKET": BUCKETS[service],
        }


def _model_tool() -> dict[str, str]:
    """Previews where the training libraries are installed, unless the operator has said otherwise."""
    if "CATALOG_MODEL_TOOL_COMMAND" in os.environ or importlib.util.find_spec("transformers") is None:
        return {}
    return {"MODEL_TOOL_COMMAND": shlex.join((sys.executable, "-m", "trainer_svc.qlora.model_tool"))}


def is_tls(endpoint: str) -> bool:
    """Tells whether an object store's address is https."""
    return urlsplit(endpoint).scheme == "https"
