"""Multipart uploads that attempts have under way."""

from __future__ import annotations

from collections.abc import Mapping

from meshkit.postgres import Pool, Queries, transaction
from scheduler_svc.domain.files import FileSet, StoredFile
from scheduler_svc.domain.uploads import Upload
from scheduler_svc.store.attempt_store import lock_attempt


class UploadStore:
    """Which upload a large file goes on with; recorded under the lock of its job: no fenced attempt adds one."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries

    async def find(self, files: FileSet) -> Mapping[str, Upload]:
        """Returns the uploads of these files, by object name."""
        key = files.key
        rows = await self._pool.fetch(self._sql.list_uploads, key.job_id, key.attempt, files.prefixes[0])
        wanted = {files.object_name(file) for file in files.files}
        return {
            row["object_name"]: Upload(row["upload_id"], row["size_bytes"], row["sha256"], row["part_bytes"])
            for row in rows
            if row["object_name"] in wanted
        }

    async def record(self, files: FileSet, file: StoredFile, upload: Upload) -> bool:
        """Records the upload of one file; tells whether it is the one that counts, or another was quicker.

        Raises:
            StaleAttempt: the attempt is fenced.
        """
        async with transaction(self._pool) as connection:
            await lock_attempt(connection, self._sql, files.key)
            done = await connection.execute(
                self._sql.insert_upload,
                files.key.job_id,
                files.key.attempt,
                files.object_name(file),
                upload.upload_id,
                upload.size_bytes,
                upload.sha256,
                upload.part_bytes,
            )
        return str(done) != "INSERT 0 0"

    async def forget(self, files: FileSet, file: StoredFile, upload: Upload) -> None:
        """Forgets an upload that leads nowhere: the file begins anew."""
        key = files.key
        await self._pool.execute(
            self._sql.delete_upload, key.job_id, key.attempt, files.object_name(file), upload.upload_id
        )
