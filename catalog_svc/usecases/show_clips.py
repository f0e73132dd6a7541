"""Shows clips to people: what decoding found, and where to look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from catalog_svc.clients.object_store import ObjectStore, Picture, SignedUrl
from catalog_svc.domain.clip import Clip
from catalog_svc.domain.content import pictures_key
from catalog_svc.domain.entry import EntryId, EntryKind, Viewer
from catalog_svc.domain.errors import ClipNotFound
from catalog_svc.domain.file_path import is_path
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.entry_store import EntryStore


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip, and where to GET it and the pictures that there are of it."""

    clip: Clip
    original: SignedUrl
    poster: SignedUrl | None
    proxy: SignedUrl | None


@dataclass(frozen=True, slots=True)
class ShowClips:
    """What has decoded so far, whatever the dataset's state. Raises EntryNotFound for what the viewer may not see."""

    entries: EntryStore
    datasets: DatasetStore
    objects: ObjectStore

    async def list_page(self, dataset_id: EntryId, viewer: Viewer, after: str, size: int) -> list[ShownClip]:
        """Lists clips by path: at most `size` after a path."""
        await self.entries.get(EntryKind.DATASET, dataset_id, viewer)
        return await self._shown(await self.datasets.list_clips(dataset_id, viewer, after, size))

    async def get(self, dataset_id: EntryId, viewer: Viewer, path: str) -> ShownClip:
        """Gets a clip; raises ClipNotFound."""
        await self.entries.get(EntryKind.DATASET, dataset_id, viewer)
        # A path that no file can have, such as one with a NUL character, never reaches the database.
        found = await self.datasets.find_clips(dataset_id, viewer, [path] if is_path(path) else [])
        if path not in found:
            raise ClipNotFound(path)
        (shown,) = await self._shown([found[path]])
        return shown

    async def _shown(self, clips: Sequence[Clip]) -> list[ShownClip]:
        urls = await self.objects.read_urls([clip.place for clip in clips])
        return [
            ShownClip(
                clip,
                url,
                self._picture(clip, Picture.POSTER) if clip.decoded.has_poster else None,
                self._picture(clip, Picture.PROXY) if clip.decoded.has_proxy else None,
            )
            for clip, url in zip(clips, urls, strict=True)
        ]

    def _picture(self, clip: Clip, picture: Picture) -> SignedUrl:
        return self.objects.picture_url(pictures_key(clip.place, clip.sha256), picture)
