"""Registers, reads and forgets the object stores that users import from."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from catalog_svc.clients.guarded_http import GuardedHttp
from catalog_svc.domain.errors import InvalidField
from catalog_svc.domain.plain_text import holds_control, is_blank
from catalog_svc.domain.storage import LocationId, OpenLocation, StorageCredentials, StorageLocation
from catalog_svc.store.location_store import LocationStore
from meshkit.ids import new_id


@dataclass(frozen=True, slots=True)
class ManageLocations:
    """All of it is for the owner only; see LocationStore for what is raised."""

    locations: LocationStore
    http: GuardedHttp

    async def create(self, owner_id: str, name: str, place: OpenLocation) -> StorageLocation:
        """Registers a bucket; raises InvalidField or SourceRefused for an address that is never reached."""
        if is_blank(name) or name != name.strip() or holds_control(name):
            raise InvalidField("name", "is blank, or has a space at its ends or a control character; change it")
        parts = urlsplit(str(self.http.check(place.endpoint)))
        if parts.path != "/" or parts.query:
            raise InvalidField("endpoint", "has a path; give https://host or https://host:port")
        tidy = OpenLocation(f"{parts.scheme}://{parts.netloc}", place.region, place.bucket, place.credentials)
        made = await self.locations.create(LocationId(new_id("loc")), owner_id, name, tidy)
        _record("created", owner_id, made.id)
        return made

    async def get(self, owner_id: str, location_id: LocationId) -> StorageLocation:
        """Gets a location."""
        return await self.locations.get(location_id, owner_id)

    async def list_all(self, owner_id: str) -> list[StorageLocation]:
        """Lists locations by name."""
        return await self.locations.list_all(owner_id)

    async def set_credentials(
        self, owner_id: str, location_id: LocationId, credentials: StorageCredentials
    ) -> StorageLocation:
        """Replaces credentials."""
        changed = await self.locations.set_credentials(location_id, owner_id, credentials)
        _record("credentials_replaced", owner_id, location_id)
        return changed

    async def delete(self, owner_id: str, location_id: LocationId) -> None:
        """Forgets a location."""
        await self.locations.delete(location_id, owner_id)
        _record("deleted", owner_id, location_id)


def _record(event: str, actor: str, location_id: LocationId) -> None:
    structlog.get_logger("audit").info(
        f"audit.storage_location_{event}", actor=actor, resource=location_id, outcome="ok"
    )
