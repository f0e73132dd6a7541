"""What a job needs on disk, and what must go to make room: decided here, done elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import UnsafePathError


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A model, adapter or clip in the cache."""

    key: str
    size_bytes: int
    used_at: float
    """When it was last used, in seconds of any one clock."""


def safe_path(path: str) -> PurePosixPath:
    """`path` as a relative path that stays inside its folder.

    Raises:
        UnsafePathError: it is absolute, empty, holds `..`, a NUL or a backslash.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise UnsafePathError(f"the path {path[:200]!r} would lead out of its folder")
    return PurePosixPath(*parts)


def folder_key(files: Iterable[RemoteFile]) -> str:
    """SHA-256 over paths and digests: folders with equal content share one place in the cache."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def choose_evictions(entries: Sequence[CacheEntry], *, budget_bytes: int) -> list[str]:
    """Keys to delete, least recently used first, until what stays fits into `budget_bytes`."""
    total = sum(entry.size_bytes for entry in entries)
    chosen: list[str] = []
    for entry in sorted(entries, key=lambda entry: entry.used_at):
        if total <= budget_bytes:
            break
        chosen.append(entry.key)
        total -= entry.size_bytes
    return chosen
