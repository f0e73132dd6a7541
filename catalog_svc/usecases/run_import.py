"""One import from its beginning, or from where it was cut, to its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from catalog_svc import metrics
from catalog_svc.clients.sources.source import Source
from catalog_svc.domain.errors import (
    EntryNotFound,
    FileNotAllowed,
    FileTooLarge,
    InvalidField,
    LocationNotFound,
    QuotaExceeded,
    SecretsNotConfigured,
    SourceNotEnabled,
    SourceRefused,
    SourceUnavailable,
    StateConflict,
    TooManyFiles,
)
from catalog_svc.domain.imports import (
    MAX_FAILED_FILES,
    AnnotationSource,
    Import,
    ImportId,
    ImportItem,
    ImportState,
    path_of_url,
)
from catalog_svc.store.import_store import ImportStore
from catalog_svc.usecases import audit
from catalog_svc.usecases.fetch_file import FetchFile
from catalog_svc.usecases.list_addresses import ListAddresses
from catalog_svc.usecases.open_source import OpenSource
from meshkit.failpoints import failpoint

_PAGE = 200

# What is wrong with one file, and what with the whole import.
_OF_A_FILE = (SourceRefused, SourceUnavailable, FileTooLarge, FileNotAllowed, InvalidField)
_OF_THE_WHOLE = (
    EntryNotFound,
    StateConflict,
    TooManyFiles,
    QuotaExceeded,
    LocationNotFound,
    SecretsNotConfigured,
    SourceNotEnabled,
)
_WORDS = {
    FileTooLarge: "FILE_TOO_LARGE",
    FileNotAllowed: "FILE_NOT_ALLOWED",
    InvalidField: "PATH_CONFLICT",
    EntryNotFound: "PARENT_GONE",
    StateConflict: "PARENT_STATE_CONFLICT",
    TooManyFiles: "TOO_MANY_FILES",
    QuotaExceeded: "QUOTA_EXCEEDED",
    LocationNotFound: "STORAGE_LOCATION_NOT_FOUND",
    SecretsNotConfigured: "SECRETS_NOT_CONFIGURED",
    SourceNotEnabled: "SOURCE_NOT_ENABLED",
}


@dataclass(frozen=True, slots=True)
class RunImport:
    """Runs imports: lists the source, then fetches what is not in place. All of it may be repeated."""

    imports: ImportStore
    open_source: OpenSource
    list_addresses: ListAddresses
    fetch_file: FetchFile
    fetches: int
    """Files fetched at once."""
    max_files: int

    async def run(self, found: Import, token: str) -> ImportState:
        """Ends an import, one way or another; raises LeaseLost if it is another's, or cancelled, meanwhile."""
        try:
            source = await self.fetch_file.with_tries(lambda: self.open_source.open(found, token))
            if not found.counts.is_listed:
                await self.fetch_file.with_tries(lambda: self._list(found, token, source))
                await self.imports.set_listed(found.id, token)
                await failpoint("import.listed")
            await self._fetch_all(found, token, source)
        except (*_OF_A_FILE, *_OF_THE_WHOLE) as error:
            return await self._end(found, token, ImportState.FAILED, _reason(error), str(error))
        counts = (await self.imports.get(found.id, found.owner_id)).counts
        if counts.files_failed:
            what = f"{counts.files_failed} of {counts.files} files could not be had; mend the source and import again"
            return await self._end(found, token, ImportState.FAILED, "FILES_FAILED", what)
        return await self._end(found, token, ImportState.COMPLETED)

    async def give_up(self, found: Import, token: str) -> ImportState:
        """Ends an import that failed as often as it is tried by what nobody had foreseen; raises LeaseLost."""
        message = (
            f"the import failed {found.failures} times in a row by an error of the service's own; start it again: what "
            f"is in place is not fetched again. If it fails again, tell the operator its id, {found.id}"
        )
        return await self._end(found, token, ImportState.FAILED, "INTERNAL", message)

    async def _end(
        self, found: Import, token: str, state: ImportState, reason: str = "", message: str = ""
    ) -> ImportState:
        await self.imports.end(found.id, token, state, reason, message)
        metrics.IMPORTS.labels(state.value, reason).inc()
        draft = found.draft
        details = {"import_id": found.id, "state": state.value, "reason": reason}
        audit.record("import_ended", found.owner_id, draft.parent_kind, draft.parent_id, **details)
        return state

    async def _list(self, found: Import, token: str, source: Source) -> None:
        if isinstance(found.draft.source, AnnotationSource):
            await self._list_addresses(found, token, source, found.draft.source)
            return
        count = 0
        async for page in source.pages():
            count += len(page)
            if count > self.max_files:
                what = f"the source has more than {self.max_files} files"
                raise SourceRefused("TOO_MANY_FILES", what, "split it in two")
            await self.imports.add_items(found.id, token, page)
        if not count:
            raise SourceRefused("SOURCE_EMPTY", "the source has no file to take", "check the address")

    async def _list_addresses(self, found: Import, token: str, source: Source, asked: AnnotationSource) -> None:
        path = asked.file
        if asked.url:
            path = path_of_url(asked.url)
            await self.imports.add_items(found.id, token, [ImportItem(path, asked.url)])
            await self._fetch_all(found, token, source)
        items = await self.list_addresses.items(found.draft.parent_id, path)
        for first in range(0, len(items), _PAGE):
            await self.imports.add_items(found.id, token, items[first : first + _PAGE])

    async def _fetch_all(self, found: Import, token: str, source: Source) -> None:
        waiting = _Waiting(self.imports, found.id)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.fetches):
                    group.create_task(self._fetch_each(found, token, source, waiting))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        if waiting.failure is not None:
            raise waiting.failure

    async def _fetch_each(self, found: Import, token: str, source: Source, waiting: _Waiting) -> None:
        while (item := await waiting.take()) is not None:
            reason = message = ""
            size = None
            try:
                size = await self.fetch_file.fetch(found, source, item)
            except _OF_A_FILE as error:
                reason, message = _reason(error), str(error)
            except _OF_THE_WHOLE as error:
                waiting.stop(error)
                return
            await failpoint("import.file.stored")
            await self.imports.end_item(found.id, token, item.path, size, reason, message)
            metrics.IMPORT_FILES.labels("failed" if reason else "done").inc()
            metrics.IMPORT_BYTES.inc(size or 0)
            if reason:
                waiting.failed += 1
                structlog.get_logger().info("import.file_failed", resource=found.id, reason=reason)
                if waiting.failed > MAX_FAILED_FILES:
                    what = f"more than {MAX_FAILED_FILES} files could not be had"
                    waiting.stop(SourceRefused("TOO_MANY_FAILURES", what, "mend the source and import again"))


class _Waiting:
    """Hands out the files that are still to be fetched, each to one of several takers, with little memory."""

    def __init__(self, imports: ImportStore, import_id: ImportId) -> None:
        self._imports = imports
        self._import_id = import_id
        self._page: list[tuple[int, ImportItem]] = []
        self._position = 0
        self._lock = asyncio.Lock()
        self.failed = 0
        self.failure: Exception | None = None
        """Why no more are handed out."""

    def stop(self, failure: Exception) -> None:
        """Hands out no more. What is under way is brought to its end: cut off, it would take up storage until its
        upload expires."""
        self.failure = self.failure or failure

    async def take(self) -> ImportItem | None:
        async with self._lock:
            if self.failure is not None:
                return None
            if not self._page:
                page = await self._imports.next_items(self._import_id, self._position, _PAGE)
                self._page = page[::-1]
            if not self._page:
                return None
            self._position, item = self._page.pop()
            return item


def _reason(error: Exception) -> str:
    """Returns what went wrong in one word."""
    if isinstance(error, SourceRefused | SourceUnavailable):
        return error.reason
    return next(word for kind, word in _WORDS.items() if isinstance(error, kind))
