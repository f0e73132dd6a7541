"""The data folder of one mesh on one machine: where things are, and that only one `reeltune up` uses it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LOG_KEPT_BYTES = 10 * 1024 * 1024


class FolderBusy(Exception):
    """Another `reeltune up` uses the folder."""


@dataclass(frozen=True, slots=True)
class StackFolder:
    """The layout below the root."""

    root: Path

    @property
    def certificates(self) -> Path:
        return self.root / "certificates"

    @property
    def edge(self) -> Path:
        """Envoy's configuration, the descriptor set and its working folder."""
        return self.root / "edge"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def metrics_targets(self) -> Path:
        """Where metrics are shown, for Prometheus."""
        return self.root / "metrics" / "targets.json"

    def part(self, name: str) -> Path:
        """What one process keeps: `auth` its keys, `postgres` its cluster, `trainer` its caches."""
        return self.root / name

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.root / "logs" / f"{name}.log"

    def roll_log(self, name: str) -> None:
        """Puts a log that has grown large aside, so that two of that size is the most there ever is at a start."""
        path = self.log(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_KEPT_BYTES:
            path.rename(path.with_suffix(".log.1"))


@contextlib.contextmanager
def open_folder(root: Path) -> Iterator[StackFolder]:
    """Makes the folder if need be and holds it until the block ends; the kernel lets go of it if this process dies.

    Raises:
        FolderBusy: another process holds it.
        OSError: it cannot be made or written.
    """
    root = root.expanduser().resolve()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise FolderBusy(
                f"another `reeltune up` (process {holder}) already runs on {root}; "
                "stop it, or choose another folder with --data"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield StackFolder(root)
        lock.truncate(0)


def write_private(path: Path, content: object) -> None:
    """Writes JSON that only its owner can read, all or nothing."""
    building = path.with_name(f".{path.name}.building")
    building.unlink(missing_ok=True)
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    building.replace(path)
