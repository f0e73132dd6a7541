"""Repositories of a model hub, by its public HTTP API, at one commit.

https://huggingface.co/docs/hub/api. Plain requests, and not its library: that one follows redirects, caches and
proxies by rules of its own, and could not be held to those of `guarded_http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from catalog_svc.clients.guarded_http import GuardedHttp
from catalog_svc.clients.sources.source import OpenFile
from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import SourceUnavailable
from catalog_svc.domain.imports import ImportItem, item_of

DEFAULT_REVISION = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_LIST_BYTES = 64 * 1024 * 1024
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Hub:
    """One hub."""

    http: GuardedHttp
    endpoint: str

    async def commit(self, kind: EntryKind, repository: str, revision: str) -> str:
        """Returns the commit that a revision stands for now."""
        return str((await self._info(kind, repository, revision or DEFAULT_REVISION))["sha"])

    async def files(self, kind: EntryKind, repository: str, commit: str) -> list[tuple[str, int | None, str]]:
        """Returns the files of a commit as (path, size in bytes, SHA-256 where the hub tells it)."""
        siblings = (await self._info(kind, repository, commit)).get("siblings")
        if not isinstance(siblings, list):
            raise _unreadable()
        return [_sibling(value) for value in siblings]

    def url(self, kind: EntryKind, repository: str, commit: str, path: str) -> str:
        """Returns where a file is."""
        folder = "datasets/" if kind is EntryKind.DATASET else ""
        return f"{self.endpoint}/{folder}{repository}/resolve/{commit}/{quote(path, safe='/-_.~')}"

    async def _info(self, kind: EntryKind, repository: str, revision: str) -> dict[str, Any]:
        folder = "datasets" if kind is EntryKind.DATASET else "models"
        url = f"{self.endpoint}/api/{folder}/{repository}/revision/{quote(revision, safe='')}?blobs=true"
        async with self.http.get(url, max_bytes=_MAX_LIST_BYTES) as response:
            data = await response.read()
        try:
            info = await asyncio.to_thread(json.loads, data)
        except (ValueError, RecursionError) as error:
            raise _unreadable() from error
        if not isinstance(info, dict) or not _COMMIT.fullmatch(str(info.get("sha"))):
            raise _unreadable()
        return info


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of one commit."""

    hub: Hub
    kind: EntryKind
    repository: str
    commit: str

    async def pages(self) -> AsyncIterator[Sequence[ImportItem]]:
        found = []
        for path, size, sha256 in await self.hub.files(self.kind, self.repository, self.commit):
            item = item_of(self.kind, path, path, size, sha256)
            if item is not None:
                found.append(item)
        for first in range(0, len(found), _BATCH):
            yield found[first : first + _BATCH]

    @contextlib.asynccontextmanager
    async def open(self, item: ImportItem) -> AsyncGenerator[OpenFile, None]:
        async with self.hub.http.get(self.hub.url(self.kind, self.repository, self.commit, item.location)) as response:
            yield OpenFile(response.body(), sha256=item.etag)


def _sibling(value: Any) -> tuple[str, int | None, str]:
    if not isinstance(value, dict) or not isinstance(value.get("rfilename"), str):
        raise _unreadable()
    lfs = value.get("lfs")
    digest = str(lfs.get("sha256")) if isinstance(lfs, dict) else ""
    size = value.get("size")
    return (
        value["rfilename"],
        size if isinstance(size, int) and 0 <= size < 1 << 62 else None,
        digest if _SHA256.fullmatch(digest) else "",
    )


def _unreadable() -> SourceUnavailable:
    return SourceUnavailable("SOURCE_ANSWER_INVALID", "the hub's answer cannot be read")
