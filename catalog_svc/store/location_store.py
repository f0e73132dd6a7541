"""Storage locations in Postgres; their secrets are encrypted with a key that is not there."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from catalog_svc.domain.errors import (
    LocationExists,
    LocationInUse,
    LocationNotFound,
    SecretsNotConfigured,
    TooManyLocations,
)
from catalog_svc.domain.storage import (
    MAX_LOCATIONS,
    LocationId,
    OpenLocation,
    StorageCredentials,
    StorageLocation,
)
from catalog_svc.store.queries import queries
from meshkit.postgres import Pool, transaction


class SecretBox:
    """Encrypts secrets, each for one row: moved to another row it opens nothing."""

    def __init__(self, keys: str) -> None:
        """Takes Fernet keys (32 bytes, base64), separated by commas: the first encrypts, all decrypt. Empty: none.

        Raises:
            ValueError: one is no such key.
        """
        parts = [key.strip() for key in keys.split(",") if key.strip()]
        self._fernet = MultiFernet([Fernet(key) for key in parts]) if parts else None

    def seal(self, location_id: LocationId, secret: str) -> bytes:
        """Returns the encrypted secret; raises SecretsNotConfigured."""
        if self._fernet is None:
            raise SecretsNotConfigured
        return self._fernet.encrypt(json.dumps([location_id, secret]).encode())

    def open(self, location_id: LocationId, sealed: bytes) -> str:
        """Inverts `seal`; raises SecretsNotConfigured, also if none of the keys fits."""
        if self._fernet is None:
            raise SecretsNotConfigured
        try:
            owner, secret = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise SecretsNotConfigured from error
        if owner != location_id:
            raise SecretsNotConfigured
        return str(secret)


class LocationStore:
    """Keeps locations for their owners; what is not theirs is as if it were not there."""

    def __init__(self, pool: Pool, secrets: SecretBox) -> None:
        self._pool = pool
        self._secrets = secrets

    async def create(
        self,
        location_id: LocationId,
        owner_id: str,
        name: str,
        place: OpenLocation,
    ) -> StorageLocation:
        """Adds a location; raises LocationExists, TooManyLocations or SecretsNotConfigured."""
        access_key_id, sealed = self._sealed(location_id, place.credentials)
        try:
            async with transaction(self._pool) as connection:
                await connection.execute(queries().lock_locations, owner_id)
                if await connection.fetchval(queries().count_locations, owner_id) >= MAX_LOCATIONS:
                    raise TooManyLocations(MAX_LOCATIONS)
                row = await connection.fetchrow(
                    queries().insert_location,
                    location_id,
                    owner_id,
                    name,
                    place.endpoint,
                    place.region,
                    place.bucket,
                    access_key_id,
                    sealed,
                )
        except asyncpg.UniqueViolationError as error:
            raise LocationExists(name) from error
        return _location(row)

    async def get(self, location_id: LocationId, owner_id: str) -> StorageLocation:
        """Gets a location; raises LocationNotFound."""
        return _location(await self._row(location_id, owner_id))

    async def list_all(self, owner_id: str) -> list[StorageLocation]:
        """Lists an owner's locations by name."""
        return [_location(row) for row in await self._pool.fetch(queries().list_locations, owner_id)]

    async def set_credentials(
        self, location_id: LocationId, owner_id: str, credentials: StorageCredentials
    ) -> StorageLocation:
        """Replaces credentials; raises LocationNotFound or SecretsNotConfigured."""
        await self._row(location_id, owner_id)
        access_key_id, sealed = self._sealed(location_id, credentials)
        row = await self._pool.fetchrow(queries().update_location_secret, location_id, owner_id, access_key_id, sealed)
        if row is None:
            raise LocationNotFound
        return _location(row)

    async def delete(self, location_id: LocationId, owner_id: str) -> None:
        """Forgets a location; raises LocationNotFound or LocationInUse."""
        async with transaction(self._pool) as connection:
            if await connection.fetchval(queries().lock_location, location_id, owner_id) is None:
                raise LocationNotFound
            if await connection.fetchval(queries().is_location_read, location_id):
                raise LocationInUse("an import reads from it")
            if await connection.fetchval(queries().is_location_referred_to, location_id):
                raise LocationInUse("clips of a dataset, perhaps a deleted one, refer to it")
            await connection.execute(queries().forget_location_of_imports, location_id)
            await connection.execute(queries().delete_location, location_id)

    async def open(self, location_id: LocationId, owner_id: str) -> OpenLocation:
        """Gets a location with what opens it; raises LocationNotFound or SecretsNotConfigured."""
        return self._opened(await self._row(location_id, owner_id))

    async def open_referred(self, location_id: LocationId) -> OpenLocation:
        """Does as `open` for whoever may read a file that refers to it."""
        row = await self._pool.fetchrow(queries().get_any_location, location_id)
        if row is None:
            raise LocationNotFound
        return self._opened(row)

    def _opened(self, row: Any) -> OpenLocation:
        credentials = None
        if row["secret"] is not None:
            secret = self._secrets.open(LocationId(row["id"]), row["secret"])
            credentials = StorageCredentials(row["access_key_id"], secret)
        return OpenLocation(row["endpoint"], row["region"], row["bucket"], credentials)

    async def _row(self, location_id: LocationId, owner_id: str) -> Any:
        row = await self._pool.fetchrow(queries().get_location, location_id, owner_id)
        if row is None:
            raise LocationNotFound
        return row

    def _sealed(self, location_id: LocationId, credentials: StorageCredentials | None) -> tuple[str, bytes | None]:
        if credentials is None:
            return "", None
        return credentials.access_key_id, self._secrets.seal(location_id, credentials.secret_access_key)


def _location(row: Any) -> StorageLocation:
    return StorageLocation(
        id=LocationId(row["id"]),
        owner_id=row["owner_id"],
        name=row["name"],
        endpoint=row["endpoint"],
        region=row["region"],
        bucket=row["bucket"],
        access_key_id=row["access_key_id"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
