"""Content on this machine's disk for a while: what is looked at once is often looked at again with other settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain.clip import Clip
from catalog_svc.domain.upload import StoredFile


@dataclass(frozen=True, slots=True)
class LocalUnit:
    """A file, or a folder of files, that comes and goes as one."""

    key: str
    """Its path under the root; names the content."""
    files: Mapping[str, StoredFile | Clip]
    """By path under the unit; a unit that is a file has the one path that is empty."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


class LocalContent:
    """A bounded cache in a folder of its own, which is removed at the end. What is in use is never evicted."""

    def __init__(self, objects: ObjectStore, spool_dir: Path | None, budget_bytes: int) -> None:
        self._objects = objects
        self._budget = budget_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="reeltune-local-", dir=spool_dir, ignore_cleanup_errors=True)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._in_use: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        """By key, least recently used first."""

    @property
    def root(self) -> Path:
        return Path(self._folder.name)

    def close(self) -> None:
        """Removes everything."""
        self._folder.cleanup()

    @contextlib.asynccontextmanager
    async def holding(self, *units: LocalUnit) -> AsyncIterator[None]:
        """Has the units on disk while the block runs."""
        keys = [unit.key for unit in units]
        self._in_use.update(keys)
        try:
            for unit in units:
                async with self._locks[unit.key]:
                    await self._fetch(unit)
            yield
        finally:
            self._in_use.subtract(keys)
            await asyncio.to_thread(_remove, self._evict())

    async def _fetch(self, unit: LocalUnit) -> None:
        if unit.key not in self._sizes:
            building = Path(tempfile.mkdtemp(prefix=".building-", dir=self.root))
            try:
                for path, file in unit.files.items():
                    target = building / "unit" / path
                    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
                    await self._objects.download(file.place, file.size_bytes, target)
                (self.root / unit.key).parent.mkdir(parents=True, exist_ok=True)
                os.replace(building / "unit", self.root / unit.key)
            finally:
                await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
        self._sizes[unit.key] = self._sizes.pop(unit.key, unit.size_bytes)

    def _evict(self) -> list[Path]:
        """Takes away what is over the budget, and returns where it lies now: its place is free for the same content."""
        gone = []
        for key in [key for key in self._sizes if not self._in_use[key]]:
            if sum(self._sizes.values()) <= self._budget:
                break
            del self._sizes[key]
            gone.append(Path(tempfile.mkdtemp(prefix=".gone-", dir=self.root)))
            os.replace(self.root / key, gone[-1] / "unit")
        for key in [key for key, users in self._in_use.items() if not users]:
            del self._in_use[key]
            self._locks.pop(key, None)
        return gone


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
