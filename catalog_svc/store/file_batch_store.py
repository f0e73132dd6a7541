"""Many uploads into one entry by one transaction each for opening and completing, instead of one for every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catalog_svc.domain.content import content_place
from catalog_svc.domain.entry import Action, Entry, EntryId, next_state
from catalog_svc.domain.file_path import ancestors
from catalog_svc.domain.storage_usage import StorageAllowance
from catalog_svc.domain.upload import LATE_LOOK, FileHeader, StoredFile, Upload, UploadId
from catalog_svc.store.entry_store import lock_own_entry
from catalog_svc.store.file_store import check_room, max_files_of, put_file
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import file_from_row, upload_from_row
from meshkit.postgres import Connection, Pool, transaction


class NotTogether(Exception):
    """These files cannot be taken as a whole; what is the matter with which of them, `FileStore` tells one by one."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload to be opened, unless the same file is on its way already."""

    id: UploadId
    header: FileHeader
    is_direct: bool


class FileBatchStore:
    """Does for many files of one entry what `FileStore` does for one: all of it, or nothing.

    Locks are those of `FileStore`, in its order: the entry's, then those of all objects in the order of their numbers,
    then rows in the order of their ids. Nothing here is raised as the error of one file: whoever gets an error asks
    `FileStore` for each file.
    """

    def __init__(self, pool: Pool, max_files: int) -> None:
        self._pool = pool
        self._max_files = max_files

    async def get_uploads(self, upload_ids: Sequence[UploadId], owner_id: str) -> dict[UploadId, Upload]:
        """Gets those of some uploads that there are."""
        rows = await self._pool.fetch(queries().get_uploads, list(upload_ids), owner_id)
        return {upload.id: upload for upload in map(upload_from_row, rows)}

    async def open_uploads(
        self, owner_id: str, parent_id: EntryId, new: Sequence[NewUpload], allowance: StorageAllowance
    ) -> list[Upload]:
        """Opens resumable uploads of different files, or finds the open ones; see `FileStore.open_upload`.

        Returns them in order.

        Raises:
            NotTogether, CatalogError: not all of them can be opened; none has been.
        """
        places = {one.header: content_place(owner_id, one.header.sha256).object_key for one in new}
        async with transaction(self._pool) as connection:
            entry = await self._lock_taker(connection, parent_id, owner_id, [one.header for one in new])
            await connection.execute(queries().lock_objects, list(places.values()))
            rows = await connection.fetch(queries().find_contents, list(places.values()))
            in_place = {(row["object_key"], row["size_bytes"]) for row in rows}
            there = [one for one in new if (places[one.header], one.header.size_bytes) in in_place]
            coming = [one for one in new if (places[one.header], one.header.size_bytes) not in in_place]
            opened = await _insert_complete(connection, entry, there) if there else []
            if coming:
                opened += await _open(connection, entry, coming, allowance)
        by_header = {upload.header: upload for upload in opened}
        return [by_header[one.header] for one in new]

    async def commit(self, parent_id: EntryId, owner_id: str, uploads: Sequence[Upload]) -> list[StoredFile]:
        """Puts files in place that were sent straight to where their verified bytes lie; see `FileStore.commit`.

        Returns them in order.

        Raises:
            NotTogether, CatalogError: not all of them can be put in place; none has been.
        """
        headers = [upload.header for upload in uploads]
        async with transaction(self._pool) as connection:
            entry = await self._lock_taker(connection, parent_id, owner_id, headers)
            completed = await connection.fetch(queries().complete_uploads, [upload.id for upload in uploads])
            if len(completed) != len(uploads):
                raise NotTogether
            late = ([upload.place.object_key for upload in uploads], [header.size_bytes for header in headers])
            await connection.execute(queries().discard_late_contents, *late, LATE_LOOK, owner_id)
            files = await _put(connection, entry, headers)
        return [files[header.path] for header in headers]

    async def _lock_taker(
        self, connection: Connection, parent_id: EntryId, owner_id: str, headers: Sequence[FileHeader]
    ) -> Entry:
        """Locks the entry, which takes all these files."""
        kind, paths = headers[0].parent_kind, [header.path for header in headers]
        entry = await lock_own_entry(connection, kind, parent_id, owner_id)
        next_state(kind, entry.state, Action.CHANGE_FILES)
        folders = {folder for path in paths for folder in ancestors(path)}
        if (
            len(set(paths)) < len(paths)
            or not folders.isdisjoint(paths)
            or entry.file_count + len(paths) > max_files_of(kind, self._max_files)
            or await connection.fetchval(queries().find_path_conflicts, entry.id, paths, list(folders)) is not None
        ):
            raise NotTogether
        return entry


async def _insert_complete(connection: Connection, entry: Entry, new: Sequence[NewUpload]) -> list[Upload]:
    """Puts files in place whose bytes are there."""
    await _put(connection, entry, [one.header for one in new])
    rows = await connection.fetch(queries().insert_complete_uploads, entry.owner_id, entry.id, *_columns(entry, new))
    return [upload_from_row(row) for row in rows]


async def _open(
    connection: Connection, entry: Entry, new: Sequence[NewUpload], allowance: StorageAllowance
) -> list[Upload]:
    directs = [one.is_direct for one in new]
    rows = await connection.fetch(
        queries().open_uploads, entry.owner_id, entry.id, *_columns(entry, new), directs, LATE_LOOK
    )
    fresh = [row for row in rows if row["is_new"]]
    if any(row["is_direct"] for row in fresh):
        keys = [row["object_key"] for row in fresh if row["is_direct"]]
        await connection.execute(queries().release_late_contents, keys)
    if fresh:
        await check_room(connection, entry.owner_id, allowance, sum(row["size_bytes"] for row in fresh))
    return [upload_from_row(row) for row in rows]


def _columns(entry: Entry, new: Sequence[NewUpload]) -> tuple[list[str], list[str], list[str], list[int], list[str]]:
    """Returns ids, paths, digests, sizes and keys, each in order."""
    headers = [one.header for one in new]
    return (
        [one.id for one in new],
        [header.path for header in headers],
        [header.sha256 for header in headers],
        [header.size_bytes for header in headers],
        [content_place(entry.owner_id, header.sha256).object_key for header in headers],
    )


async def _put(connection: Connection, entry: Entry, headers: Sequence[FileHeader]) -> Mapping[str, StoredFile]:
    """Puts files in place at different paths, and returns them by path."""
    keys = [content_place(entry.owner_id, header.sha256).object_key for header in headers]
    sizes = [header.size_bytes for header in headers]
    await connection.execute(queries().put_contents, keys, sizes, entry.owner_id)
    await connection.execute(queries().release_late_contents, keys)
    rows = await connection.fetch(queries().find_files, entry.id, [header.path for header in headers])
    taken = {row["path"] for row in rows}
    added = [header for header in headers if header.path not in taken]
    files = await _add(connection, entry, added) if added else {}
    for header in headers:
        if header.path in taken:  # instead of what is there, which leaves more behind than a new one does
            place = content_place(entry.owner_id, header.sha256)
            files[header.path] = await put_file(connection, entry, header, place)
    return files


async def _add(connection: Connection, entry: Entry, headers: Sequence[FileHeader]) -> dict[str, StoredFile]:
    """Adds files at paths where there are none."""
    paths, digests = [header.path for header in headers], [header.sha256 for header in headers]
    sizes = [header.size_bytes for header in headers]
    keys = [content_place(entry.owner_id, digest).object_key for digest in digests]
    await connection.execute(queries().forget_probes_of_new_places, entry.id, digests, keys)
    rows = await connection.fetch(queries().add_files, entry.id, paths, digests, sizes, keys)
    state = next_state(entry.kind, entry.state, Action.CHANGE_FILES)
    await connection.execute(queries().change_content, entry.id, state, len(paths), sum(sizes))
    return {row["path"]: file_from_row(row) for row in rows}
