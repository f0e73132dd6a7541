"""The audit log: who did what to which entry. One event each, never a secret, never a URL."""

from __future__ import annotations

import structlog

from catalog_svc import metrics
from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.upload import Upload


def record(event: str, actor: str, kind: EntryKind, entry_id: EntryId, **details: object) -> None:
    """Writes one event that succeeded, such as `created`; the log line also carries the request id of the call."""
    structlog.get_logger("audit").info(
        f"audit.{kind.noun}_{event}", actor=actor, resource=entry_id, outcome="ok", **details
    )


def record_stored(upload: Upload, *, was_known: bool = False) -> None:
    """Writes that an upload's file is in place; of one whose bytes were there before, nothing was sent."""
    header = upload.header
    way = "known" if was_known else "direct" if upload.is_direct else "staged"
    metrics.UPLOADS_COMPLETED.labels(header.parent_kind.noun, way).inc()
    metrics.UPLOAD_BYTES.labels(header.parent_kind.noun, way).inc(header.size_bytes)
    record("file_stored", upload.owner_id, header.parent_kind, header.parent_id, path=header.path, sha256=header.sha256)
