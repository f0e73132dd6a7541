"""Files at https addresses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from catalog_svc.clients.guarded_http import GuardedHttp
from catalog_svc.clients.sources.source import OpenFile
from catalog_svc.domain.imports import ImportItem


@dataclass(frozen=True, slots=True)
class WebFiles:
    """Any number of files, each at an address of its own."""

    http: GuardedHttp
    items: Sequence[ImportItem] = ()

    async def pages(self) -> AsyncIterator[Sequence[ImportItem]]:
        yield self.items

    @contextlib.asynccontextmanager
    async def open(self, item: ImportItem) -> AsyncGenerator[OpenFile, None]:
        async with self.http.get(item.location) as response:
            yield OpenFile(response.body())
