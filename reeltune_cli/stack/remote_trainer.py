"""A trainer for a mesh on another machine: this process becomes it."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn


class TrainerNotInstalled(Exception):
    """The trainer's packages are not there."""


@dataclass(frozen=True, slots=True)
class RemoteTrainer:
    """Where the mesh is and how to join it."""

    scheduler: str
    catalog: str
    auth: str
    join_secret: str = field(repr=False)
    data: Path
    ca: Path | None = None
    services_ca: Path | None = None
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    device: str = "auto"
    threads: int = 0
    profile: str = ""

    def environment(self) -> dict[str, str]:
        """Returns the settings of `trainer_svc` as environment variables; what is not given keeps its default."""
        values = {
            "SCHEDULER_TARGET": self.scheduler,
            "CATALOG_TARGET": self.catalog,
            "AUTH_TARGET": self.auth,
            "JOIN_SECRET": self.join_secret,
            "DATA_DIR": str(self.data.expanduser().resolve()),
            "TLS_CA": str(self.ca.resolve()) if self.ca else "",
            "PEER_TLS_CA": str(self.services_ca.resolve()) if self.services_ca else "",
            "NAME": self.name or "",
            "HOST": self.host,
            "PORT": str(self.port),
            "DEVICE": self.device,
            "PROFILE": self.profile,
            "THREADS": str(self.threads),
            "LOG_FORMAT": "console" if sys.stderr.isatty() else "json",
        }
        return {f"TRAINER_{name}": value for name, value in values.items() if value}


def run_trainer(trainer: RemoteTrainer) -> NoReturn:
    """Replaces this process by the trainer, so that signals and the exit code are its own.

    Raises:
        TrainerNotInstalled: it cannot run here.
    """
    for package in ("trainer_svc", "torch"):
        if importlib.util.find_spec(package) is None:
            raise TrainerNotInstalled(f"{package} is missing; a trainer needs: pip install 'reeltune[trainer]'")
    trainer.data.expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
    os.execve(sys.executable, [sys.executable, "-m", "trainer_svc"], {**os.environ, **trainer.environment()})  # noqa: S606
