"""What owners have stored, in Postgres."""

from __future__ import annotations

from catalog_svc.domain.storage_usage import StorageUsage
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool


class UsageStore:
    """Reads what triggers have counted."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, owner_id: str) -> StorageUsage:
        """Gets what one owner has stored: nothing, if they never stored anything."""
        rows = await self._pool.fetch(queries().list_usage, "", owner_id, 1)
        return StorageUsage(**rows[0]) if rows else StorageUsage(owner_id)

    async def list_page(self, after: str, size: int) -> list[StorageUsage]:
        """Lists by owner: at most `size` after an id."""
        return [StorageUsage(**row) for row in await self._pool.fetch(queries().list_usage, after, None, size)]
