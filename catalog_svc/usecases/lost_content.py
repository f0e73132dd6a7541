"""What becomes of a file whose bytes the object store has lost: it is named, and can be sent again."""

from __future__ import annotations

import structlog

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain.upload import StoredFile
from catalog_svc.store.file_store import FileStore

CONTENT_LOST = "FILE_CONTENT_LOST"
"""The reason of the issue of a file that is no clip."""
LOST = "the object store no longer has the bytes that were stored"
REMEDY = "upload the file again from the original"


async def forget_lost(files: FileStore, objects: ObjectStore, file: StoredFile) -> None:
    """Has the bytes of a file taken anew when they are sent again, instead of taken for stored."""
    structlog.get_logger().error("content.lost", object_key=file.place.object_key, path=file.path)
    if file.place.location_id is None:
        await files.forget_content(file.place.object_key, lambda: objects.is_content_lost(file.place, file.sha256))
