"""The importers: background tasks that take one running import after another, under a lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from catalog_svc.domain.imports import Import, ImportState
from catalog_svc.domain.unforeseen import MAX_FAILURES
from catalog_svc.store.import_store import ImportStore
from catalog_svc.usecases.leased_worker import LeasedWorker
from catalog_svc.usecases.run_import import RunImport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImports(LeasedWorker[Import]):
    """Runs imports."""

    noun: ClassVar[str] = "import"
    imports: ImportStore
    run_import: RunImport

    async def claim(self, token: str) -> Import | None:
        return await self.imports.claim(token)

    def about(self, found: Import) -> tuple[str, int]:
        return found.id, found.failures

    async def work(self, found: Import, token: str) -> ImportState:
        if found.failures < MAX_FAILURES:
            return await self.run_import.run(found, token)
        return await self.run_import.give_up(found, token)

    async def renew(self, found: Import, token: str) -> None:
        await self.imports.renew(found.id, token)

    async def release(self, found: Import, token: str, pause: timedelta, *, is_failure: bool) -> None:
        await self.imports.release(found.id, token, pause, is_failure=is_failure)

    async def rest(self) -> None:
        await self.imports.forget_files()
