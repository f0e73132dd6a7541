"""Models, adapters and clips on this trainer's disk, each under the digest of its content."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import structlog

from meshkit.cancellation import cancel_all
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import StorageUnavailableError, UrlExpiredError
from trainer_svc.domain.materialisation import CacheEntry, choose_evictions, folder_key, safe_path

Kind = Literal["models", "adapters"]
Refresh = Callable[[str], Awaitable[RemoteFile]]
"""Gets the file at a path anew, with a fresh URL."""
List = Callable[[str], Awaitable[Sequence[RemoteFile]]]
"""Gets files anew, the one at a path among them."""

_CLIPS = "clips"
_PARALLEL = 8


def refresh_from(list_files: List) -> Refresh:
    """A refresh that looks a file up in what `list_files` answers; StorageUnavailableError when it is not there."""

    async def refresh(path: str) -> RemoteFile:
        for file in await list_files(path):
            if file.path == path:
                return file
        raise StorageUnavailableError(f"{path} is not there any more")

    return refresh


class ContentCache:
    """A bounded cache. What is taken from it is hard-linked, so that eviction never takes a file from its user."""

    def __init__(self, root: Path, transfers: Transfers, *, budget_bytes: int) -> None:
        self._root = root
        self.children = root / "children"
        """What training processes keep for each other; they bound it themselves."""
        self._transfers = transfers
        self._budget_bytes = budget_bytes
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: Counter[str] = Counter()
        """Who holds each lock or waits for it."""
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def take_folder(self, kind: Kind, files: Sequence[RemoteFile], target: Path, refresh: Refresh) -> None:
        """Makes `target` a folder with exactly these files.

        Raises:
            StorageUnavailableError, UnsafePathError.
        """
        paths = {file.path: safe_path(file.path) for file in files}
        folder = self._root / kind / folder_key(files)
        async with self._locked(str(folder)):
            if not await asyncio.to_thread(_holds, folder, files):
                await self._fill_folder(folder, files, refresh)
            os.utime(folder)
            await _on_disk(_link_all, [(folder / path, target / path) for path in paths.values()])

    async def take_clips(self, clips: Sequence[RemoteFile], target: Path, refresh: Refresh) -> None:
        """Makes `target` a folder with exactly these clips, by their own paths.

        Raises:
            StorageUnavailableError, UnsafePathError.
        """
        paths = [safe_path(clip.path) for clip in clips]
        await _all_or_none(
            self._take_clip(clip, target / path, refresh) for clip, path in zip(clips, paths, strict=True)
        )

    async def take_file(self, clip: RemoteFile, target: Path, refresh: Refresh) -> None:
        """Makes `target` this one clip."""
        await self._take_clip(clip, target, refresh)

    async def restore_folder(self, files: Sequence[RemoteFile], target: Path) -> None:
        """Downloads files that are needed once and not cached, such as a checkpoint's.

        Raises:
            UrlExpiredError, FileGoneError, DigestMismatchError, StorageUnavailableError, UnsafePathError.
        """
        paths = [safe_path(file.path) for file in files]
        await _all_or_none(self._restore(file, target / path) for file, path in zip(files, paths, strict=True))

    async def evict(self) -> None:
        """Deletes what was not used for longest until the cache fits its budget."""
        await asyncio.to_thread(self._evict)

    async def _take_clip(self, clip: RemoteFile, target: Path, refresh: Refresh) -> None:
        cached = self._root / _CLIPS / clip.sha256[:2] / clip.sha256
        async with self._locked(str(cached)):
            if not _is_file_of(cached, clip.size_bytes):
                await self._fetch(clip, cached, refresh)
            os.utime(cached)
            await _on_disk(_link_all, [(cached, target)])

    async def _fill_folder(self, folder: Path, files: Sequence[RemoteFile], refresh: Refresh) -> None:
        building = folder.with_name(f".{secrets.token_hex(8)}.building")
        try:
            await _all_or_none(self._fetch(file, building / safe_path(file.path), refresh) for file in files)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await _on_disk(building.rename, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)

    async def _fetch(self, file: RemoteFile, target: Path, refresh: Refresh) -> None:
        async with self._slots:
            try:
                await self._transfers.download(file, target)
            except UrlExpiredError:
                fresh = await refresh(file.path)
                if fresh.sha256 != file.sha256:
                    raise StorageUnavailableError(f"{file.path} has been replaced by another file") from None
                await self._transfers.download(fresh, target)

    async def _restore(self, file: RemoteFile, target: Path) -> None:
        async with self._slots:
            await self._transfers.download(file, target)

    @contextlib.asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Two that need one thing at the same time fetch it once."""
        self._users[key] += 1
        try:
            async with self._locks[key]:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]

    def _evict(self) -> None:
        entries = {entry.key: entry for entry in self._entries()}
        for key in choose_evictions(list(entries.values()), budget_bytes=self._budget_bytes):
            path = self._root / key
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            structlog.get_logger().info("cache.evicted", entry=key, size_bytes=entries[key].size_bytes)

    def _entries(self) -> Iterable[CacheEntry]:
        for path in (*self._root.glob("models/*"), *self._root.glob("adapters/*"), *self._root.glob("clips/*/*")):
            with contextlib.suppress(FileNotFoundError):
                yield CacheEntry(path.relative_to(self._root).as_posix(), _size(path), path.stat().st_mtime)


async def _all_or_none(transfers: Iterable[Awaitable[None]]) -> None:
    """Waits for all; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(transfer) for transfer in transfers]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_all(*tasks)


async def _on_disk(work: Callable[..., object], *arguments: object) -> None:
    try:
        await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error


def _holds(folder: Path, files: Sequence[RemoteFile]) -> bool:
    """Content was verified when it came; sizes tell whether the disk still has all of it."""
    return all(_is_file_of(folder / file.path, file.size_bytes) for file in files)


def _is_file_of(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _link_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links, or too many of them
            shutil.copyfile(source, target)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
