"""Regular files of a folder on this machine, below one that the operator has listed.

Every step down is taken from the folder above by its descriptor and follows no symbolic link, so what is swapped
meanwhile leads nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catalog_svc.clients.sources.source import OpenFile
from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import SourceRefused, SourceUnavailable
from catalog_svc.domain.imports import ImportItem, item_of

_CHUNK_BYTES = 1024 * 1024
_BATCH = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe must not hang whoever opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def allowed_root(path: str, roots: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """Returns the listed folder that a path lies in, and the way down from there; raises SourceRefused."""
    wanted = PurePosixPath(path)
    if wanted.is_absolute() and ".." not in wanted.parts and "\0" not in path:
        for root in roots:
            if wanted.is_relative_to(root):
                return root, wanted.relative_to(root).parts
    what = "the folder is in none of those that the operator has listed"
    raise SourceRefused("FOLDER_NOT_ALLOWED", what, "name one below them, or upload the files")


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files below a folder."""

    root: Path
    way: tuple[str, ...]
    kind: EntryKind

    async def pages(self) -> AsyncIterator[Sequence[ImportItem]]:
        pages = self._pages()
        while page := await asyncio.to_thread(next, pages, None):
            yield page

    @contextlib.asynccontextmanager
    async def open(self, item: ImportItem) -> AsyncGenerator[OpenFile, None]:
        *folders, name = item.location.split("/")
        descriptor = await asyncio.to_thread(self._open_file, folders, name)
        try:
            yield OpenFile(_chunks(descriptor))
        finally:
            os.close(descriptor)

    def _open_file(self, folders: Sequence[str], name: str) -> int:
        with self._folder(folders) as parent, _refusing(name):
            descriptor = os.open(name, _FILE, dir_fd=parent)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise _not_regular(name)
            return descriptor

    @contextlib.contextmanager
    def _folder(self, below: Sequence[str] = ()) -> Iterator[int]:
        """Opens the folder, or one below it, step by step."""
        with _refusing(str(self.root)):
            # The operator's own folder may be reached by a link; nothing below it.
            current = os.open(self.root, _FOLDER & ~os.O_NOFOLLOW)
        try:
            for step in (*self.way, *below):
                if step in ("", ".", ".."):
                    raise _not_regular(step)
                with _refusing(step):
                    inner = os.open(step, _FOLDER, dir_fd=current)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)

    def _pages(self) -> Iterator[list[ImportItem]]:
        page: list[ImportItem] = []
        with self._folder() as top:
            for folder, _, names, descriptor in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                for name in sorted(names):
                    item = self._item(folder, name, descriptor)
                    if item is not None:
                        page.append(item)
                    if len(page) == _BATCH:
                        yield page
                        page = []
        if page:
            yield page

    def _item(self, folder: str, name: str, descriptor: int) -> ImportItem | None:
        path = os.path.normpath(f"{folder}/{name}")
        try:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError:  # gone meanwhile
            return None
        item = item_of(self.kind, path, path, found.st_size)
        if item is not None and not stat.S_ISREG(found.st_mode) and not item.fault:
            return ImportItem(item.path, item.location, None, "", "FILE_NOT_REGULAR", _NOT_REGULAR)
        return item


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, descriptor, _CHUNK_BYTES):
        yield chunk


_NOT_REGULAR = "it is a link or no plain file; put the file itself there"


def _not_regular(name: str) -> SourceRefused:
    return SourceRefused("FILE_NOT_REGULAR", f"{name[:200]!r} is a link or no plain file", "put the file itself there")


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        what = f"{name[:200]!r} is not there, or not to be read"
        raise SourceRefused("SOURCE_NOT_FOUND", what, "check the path") from error
    except (NotADirectoryError, ValueError) as error:
        raise _not_regular(name) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or a socket
            raise _not_regular(name) from error
        raise SourceUnavailable("SOURCE_UNAVAILABLE", f"{name[:200]!r} cannot be read: {error.strerror}") from error
