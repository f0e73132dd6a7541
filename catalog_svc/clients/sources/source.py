"""What all sources have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.imports import ImportItem


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is being read."""

    chunks: AsyncIterator[bytes]
    place: ContentPlace | None = None
    """Where the bytes stay if the import is by reference."""
    sha256: str = ""
    """What the source says its digest is; empty: nothing."""


class Source(Protocol):
    """Names files and gives their bytes.

    Both raise SourceRefused for what another try would not mend, and SourceUnavailable for what it might.
    """

    def pages(self) -> AsyncIterator[Sequence[ImportItem]]:
        """Yields all files, some at a time."""
        ...

    def open(self, item: ImportItem) -> AbstractAsyncContextManager[OpenFile]:
        """Opens one of them."""
        ...
