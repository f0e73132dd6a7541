"""Turns what a user says of a source into what can be listed and read, as far as the operator allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog_svc.clients.guarded_http import GuardedHttp
from catalog_svc.clients.sources.bucket import Bucket, BucketFiles
from catalog_svc.clients.sources.folder import FolderFiles, allowed_root
from catalog_svc.clients.sources.hub import Hub, HubFiles
from catalog_svc.clients.sources.source import Source
from catalog_svc.clients.sources.web import WebFiles
from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import InvalidField, SourceNotEnabled
from catalog_svc.domain.imports import (
    AnnotationSource,
    BucketSource,
    FolderSource,
    HubSource,
    Import,
    ImportDraft,
    ImportItem,
    UrlSource,
)
from catalog_svc.domain.storage import DEFAULT_REGION, OpenLocation
from catalog_svc.store.import_store import ImportStore
from catalog_svc.store.location_store import LocationStore


@dataclass(frozen=True, slots=True)
class OpenSource:
    """Opens sources."""

    http: GuardedHttp
    imports: ImportStore
    locations: LocationStore
    public_s3_endpoint: str
    """Where buckets without a location are."""
    hub_endpoint: str
    """Empty: imports from a hub are not allowed."""
    folders: Sequence[Path]
    """Folders of this machine that anybody may import from."""

    def check(self, draft: ImportDraft) -> None:
        """Raises SourceNotEnabled or SourceRefused for what is never fetched here, before anything is begun."""
        source = draft.source
        if isinstance(source, UrlSource | AnnotationSource):
            if source.url:
                self.http.check(source.url)
        elif isinstance(source, HubSource) and not self.hub_endpoint:
            raise SourceNotEnabled("hub", "CATALOG_IMPORT_HUB_URL")
        elif isinstance(source, FolderSource):
            if not self.folders:
                raise SourceNotEnabled("folder", "CATALOG_IMPORT_FOLDERS")
            allowed_root(source.path, self.folders)

    async def check_bucket(self, draft: ImportDraft, owner_id: str) -> None:
        """Raises LocationNotFound for a location that is not the owner's, InvalidField for one of another bucket."""
        source = draft.source
        if isinstance(source, BucketSource) and source.location_id is not None:
            location = await self.locations.get(source.location_id, owner_id)
            if location.bucket != source.bucket:
                raise InvalidField("source.bucket.uri", f"names another bucket than the location: {location.bucket}")

    async def open(self, found: Import, token: str) -> Source:
        """Opens the source of an import.

        Raises:
            SourceNotEnabled, SourceRefused: it is not one to read from.
            SourceUnavailable: a hub does not answer.
            LocationNotFound, SecretsNotConfigured: the storage location has gone, or cannot be opened.
            LeaseLost: the import is another's meanwhile.
        """
        self.check(found.draft)
        source, kind = found.draft.source, found.draft.parent_kind
        if isinstance(source, UrlSource):
            return WebFiles(self.http, (ImportItem(source.path, source.url),))
        if isinstance(source, AnnotationSource):
            return WebFiles(self.http)
        if isinstance(source, BucketSource):
            bucket = await self._bucket(source, found.owner_id)
            return BucketFiles(bucket, source.prefix, kind, source.location_id if source.is_reference else None)
        if isinstance(source, HubSource):
            return await self._hub_files(found, source, token, kind)
        root, way = allowed_root(source.path, self.folders)
        return FolderFiles(root, way, kind)

    async def _bucket(self, source: BucketSource, owner_id: str) -> Bucket:
        if source.location_id is None:
            return Bucket(self.http, OpenLocation(self.public_s3_endpoint, DEFAULT_REGION, source.bucket, None))
        return Bucket(self.http, await self.locations.open(source.location_id, owner_id))

    async def _hub_files(self, found: Import, source: HubSource, token: str, kind: EntryKind) -> HubFiles:
        hub = Hub(self.http, self.hub_endpoint.rstrip("/"))
        commit = found.commit
        if not commit:
            now = await hub.commit(kind, source.repository, source.revision)
            commit = await self.imports.pin_commit(found.id, token, now)
        return HubFiles(hub, kind, source.repository, commit)
