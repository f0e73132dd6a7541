"""Files and uploads in Postgres. A file's row appears only with its bytes verified and in place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from catalog_svc.domain.content import ContentPlace, content_place, pictures_key
from catalog_svc.domain.entry import Action, Entry, EntryId, EntryKind, Viewer, next_state
from catalog_svc.domain.errors import (
    InvalidField,
    LocationNotFound,
    QuotaExceeded,
    StoredFileNotFound,
    TooManyFiles,
    UploadNotFound,
)
from catalog_svc.domain.file_path import ancestors
from catalog_svc.domain.storage_usage import NO_LIMIT, StorageAllowance
from catalog_svc.domain.upload import LATE_LOOK, MAX_MODEL_FILES, FileHeader, StoredFile, Upload, UploadId
from catalog_svc.store.entry_store import lock_own_entry
from catalog_svc.store.queries import queries
from catalog_svc.store.rows import file_from_row, upload_from_row
from meshkit.postgres import Connection, Pool, transaction


class FileStore:
    """Keeps files and uploads.

    Two locks order everything: a file comes and goes only under that of its entry's row; an object is found in place,
    announced and removed only under that of its key. Who takes both takes the entry's first.
    """

    def __init__(self, pool: Pool, max_files: int) -> None:
        self._pool = pool
        self._max_files = max_files

    async def open_upload(
        self,
        upload_id: UploadId,
        owner_id: str,
        header: FileHeader,
        *,
        is_resumable: bool,
        is_direct: bool = False,
        allowance: StorageAllowance = NO_LIMIT,
    ) -> Upload:
        """Opens an upload, or finds the open one of the same file; completes it at once where its bytes are stored.

        A resumable one of the same file that would be sent the other way, direct or staged, is dropped: a file is on
        its way once, and counts once.
        As long as it is open its object is kept, whoever else has used it or puts it there.

        Raises:
            EntryNotFound, StateConflict, TooManyFiles: the parent takes no file from this caller.
            InvalidField: the path goes through a file, or another file's path goes through it.
            QuotaExceeded: the owner may not store as much.
        """
        async with transaction(self._pool) as connection:
            entry = await lock_own_entry(connection, header.parent_kind, header.parent_id, owner_id)
            await self._check_can_take(connection, entry, header)
            key = content_place(owner_id, header.sha256).object_key
            await connection.execute(queries().lock_object, key)
            columns = (upload_id, owner_id, entry.id, header.path, header.sha256, header.size_bytes, key)
            if is_resumable and await connection.fetchval(queries().is_content_stored, key, header.size_bytes):
                await self._put(connection, entry, header)
                row = await connection.fetchrow(queries().insert_complete_upload, *columns)
            else:
                row = await connection.fetchrow(queries().open_upload, *columns, is_resumable, is_direct, LATE_LOOK)
                if row is not None and row["is_new"]:
                    if is_direct:
                        await connection.execute(queries().release_late_content, key)
                    await check_room(connection, owner_id, allowance, header.size_bytes)
        assert row is not None
        return upload_from_row(row)

    async def set_multipart(self, upload_id: UploadId, multipart_id: str) -> str:
        """Notes S3's name of a multipart upload and returns the one that counts: another call may have been faster.

        Raises:
            UploadNotFound: the upload is gone.
        """
        settled = await self._pool.fetchval(queries().set_multipart, upload_id, multipart_id)
        if settled is None:
            raise UploadNotFound
        return str(settled)

    async def get_upload(self, upload_id: UploadId, owner_id: str) -> Upload:
        """Gets an upload; raises UploadNotFound."""
        row = await self._pool.fetchrow(queries().get_upload, upload_id, owner_id)
        if row is None:
            raise UploadNotFound
        return upload_from_row(row)

    async def commit(self, upload: Upload) -> StoredFile:
        """Puts a file in place whose bytes are verified and stored under their digest. A second commit changes nothing.

        Raises:
            EntryNotFound, StateConflict, TooManyFiles, InvalidField: the parent no longer takes it.
            UploadNotFound: the upload has gone.
        """
        header = upload.header
        async with transaction(self._pool) as connection:
            entry = await lock_own_entry(connection, header.parent_kind, header.parent_id, upload.owner_id)
            if await connection.fetchval(queries().complete_upload, upload.id) is None:
                stored = await self._committed(connection, upload)
                if stored is None:
                    raise UploadNotFound
                return stored
            await self._check_can_take(connection, entry, header)
            await _discard_written(connection, upload, is_dropped=False)
            return await self._put(connection, entry, header)

    async def discard_upload(self, upload: Upload) -> None:
        """Drops an open upload and has its objects removed, those under its digest included if nothing uses them."""
        async with transaction(self._pool) as connection:
            is_dropped = await connection.fetchval(queries().discard_upload, upload.id)
            await _discard_written(connection, upload, is_dropped=is_dropped)
            await connection.execute(queries().discard_content, upload.place.object_key)

    async def list_page(self, entry_id: EntryId, owner_id: str, after: str, size: int) -> list[StoredFile]:
        """Lists files of an owner's entry by path: at most `size` after a path; none if the entry is not theirs."""
        rows = await self._pool.fetch(queries().list_files, entry_id, owner_id, after, size)
        return [file_from_row(row) for row in rows]

    async def list_all(self, entry_id: EntryId) -> list[StoredFile]:
        """Lists all files of an entry, for those who validate it."""
        return [file_from_row(row) for row in await self._pool.fetch(queries().list_all_files, entry_id)]

    async def list_visible(self, entry_id: EntryId, viewer: Viewer) -> list[StoredFile]:
        """Lists all files of an entry that the viewer may see."""
        rows = await self._pool.fetch(queries().list_visible_files, entry_id, viewer.user_id, viewer.granted_id)
        return [file_from_row(row) for row in rows]

    async def delete(self, kind: EntryKind, entry_id: EntryId, owner_id: str, path: str) -> StoredFile:
        """Removes a file.

        Raises:
            EntryNotFound, StateConflict: the entry does not take changes from this caller.
            StoredFileNotFound: it holds no such file.
        """
        async with transaction(self._pool) as connection:
            entry = await lock_own_entry(connection, kind, entry_id, owner_id)
            state = next_state(kind, entry.state, Action.CHANGE_FILES)
            row = await connection.fetchrow(queries().delete_file, entry_id, path)
            if row is None:
                raise StoredFileNotFound(path)
            gone = file_from_row(row)
            await connection.execute(queries().change_content, entry_id, state, -1, -gone.size_bytes)
            await _discard_content(connection, entry_id, gone)
        return gone

    async def forget_content(self, object_key: str, is_lost: Callable[[], Awaitable[bool]]) -> None:
        """Notes that an object is not in place, if that is so: whoever has its bytes is asked for them again.

        Args:
            object_key: Of the object.
            is_lost: Tells whether it is gone; asked under the object's lock.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries().lock_object, object_key)
            if await is_lost():
                await connection.execute(queries().delete_content, object_key)

    async def discard_gone(self, object_keys: Sequence[str]) -> None:
        """Has the pictures removed of those contents that are in place no more."""
        await self._pool.execute(queries().discard_gone, list(object_keys))

    async def discard_abandoned(self, idle: timedelta, remember: timedelta) -> None:
        """Drops open uploads untouched for `idle`, and forgets those completed longer than `remember` ago."""
        await self._pool.execute(queries().discard_abandoned_uploads, idle, LATE_LOOK)
        await self._pool.execute(queries().forget_complete_uploads, remember)

    async def _check_can_take(self, connection: Connection, entry: Entry, header: FileHeader) -> None:
        next_state(entry.kind, entry.state, Action.CHANGE_FILES)
        limit = max_files_of(entry.kind, self._max_files)
        if entry.file_count >= limit:
            raise TooManyFiles(entry.kind, limit)
        conflict = await connection.fetchval(
            queries().find_path_conflict, entry.id, header.path, list(ancestors(header.path))
        )
        if conflict is not None:
            raise InvalidField("file.path", f"{header.path!r} and the file {conflict!r} cannot be in one folder tree")

    async def put_reference(self, owner_id: str, header: FileHeader, place: ContentPlace) -> StoredFile:
        """Puts a file in place whose bytes stay in another bucket. A second time changes nothing.

        Raises:
            EntryNotFound, StateConflict, TooManyFiles, InvalidField: the parent does not take it.
            LocationNotFound: the bucket is not registered any more.
        """
        async with transaction(self._pool) as connection:
            entry = await lock_own_entry(connection, header.parent_kind, header.parent_id, owner_id)
            await self._check_can_take(connection, entry, header)
            if await connection.fetchval(queries().lock_location, place.location_id, owner_id) is None:
                raise LocationNotFound
            return await put_file(connection, entry, header, place)

    async def _put(self, connection: Connection, entry: Entry, header: FileHeader) -> StoredFile:
        place = content_place(entry.owner_id, header.sha256)
        await connection.execute(queries().put_content, place.object_key, entry.owner_id, header.size_bytes)
        await connection.execute(queries().release_late_content, place.object_key)
        return await put_file(connection, entry, header, place)

    async def _committed(self, connection: Connection, upload: Upload) -> StoredFile | None:
        """Finds what a completed upload put in place; the file may have been removed since."""
        row = await connection.fetchrow(queries().get_upload, upload.id, upload.owner_id)
        return upload_from_row(row).stored if row is not None else None


def max_files_of(kind: EntryKind, max_files: int) -> int:
    """Returns how many files an entry of that kind holds, where one of any kind holds at most `max_files`."""
    return min(max_files, MAX_MODEL_FILES) if kind is EntryKind.MODEL else max_files


async def put_file(connection: Connection, entry: Entry, header: FileHeader, place: ContentPlace) -> StoredFile:
    """Puts a file in place whose bytes are there, instead of the one at its path; the entry is locked."""
    found = await connection.fetchrow(queries().find_file, entry.id, header.path)
    before = None if found is None else file_from_row(found)
    if before is not None and before.place == place:
        return before
    # What is known of these bytes says that there are pictures of them, which is so only where they lay before.
    await connection.execute(
        queries().forget_probe_of_new_place, entry.id, header.sha256, place.location_id, place.object_key
    )
    row = await connection.fetchrow(
        queries().put_file,
        entry.id,
        header.path,
        header.sha256,
        header.size_bytes,
        place.object_key,
        place.location_id,
        place.etag,
    )
    assert row is not None
    growth = header.size_bytes - (before.size_bytes if before else 0)
    state = next_state(entry.kind, entry.state, Action.CHANGE_FILES)
    await connection.execute(queries().change_content, entry.id, state, 0 if before else 1, growth)
    if before is not None:
        await _discard_content(connection, entry.id, before)
    return file_from_row(row)


async def check_room(connection: Connection, owner_id: str, allowance: StorageAllowance, added_bytes: int) -> None:
    """Raises QuotaExceeded if this transaction has added too much; else the owner's others wait for its end."""
    if allowance.limit_bytes is None:
        return
    used = await connection.fetchval(queries().lock_usage, owner_id) or 0
    if not allowance.has_room(used):
        before = used - added_bytes + allowance.used_elsewhere_bytes
        raise QuotaExceeded(allowance.limit_bytes, before, added_bytes)


async def _discard_written(connection: Connection, upload: Upload, *, is_dropped: bool) -> None:
    """Has collected what the presigned URLs of an upload that has ended have written, and may still write."""
    if upload.is_direct:
        late = (upload.place.object_key, LATE_LOOK, upload.owner_id, upload.header.size_bytes, is_dropped)
        await connection.execute(queries().discard_late_content, *late)
    else:
        await connection.execute(queries().discard_staged, upload.header.parent_id, upload.id, LATE_LOOK)


async def _discard_content(connection: Connection, entry_id: EntryId, gone: StoredFile) -> None:
    """Has the bytes of a file removed that has gone; of those in another bucket, what was made of them here."""
    # Its pictures go, too: should it come back, they are made anew.
    await connection.execute(queries().forget_probe, entry_id, gone.sha256)
    await connection.execute(queries().discard_content, pictures_key(gone.place, gone.sha256))
