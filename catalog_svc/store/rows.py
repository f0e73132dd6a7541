"""Rows of the database as domain objects."""

from __future__ import annotations

from typing import Any

from catalog_svc.domain.clip import Clip, ClipFault, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.dataset import Dataset, DatasetFindings
from catalog_svc.domain.entry import Entry, EntryId, EntryKind, EntryState, Visibility
from catalog_svc.domain.issue import Issue, Severity
from catalog_svc.domain.model import Model
from catalog_svc.domain.quarantine import QuarantinedItem
from catalog_svc.domain.sample import AnnotationFormat, Sample, messages_from_json
from catalog_svc.domain.upload import FileHeader, StoredFile, Upload, UploadId
from catalog_svc.store.model_rows import model_from_row

Row = Any
"""A row of asyncpg, read by column name."""


def entry_from_row(row: Row) -> Entry:
    """Reads a row of `entries` or `entry_details`."""
    return Entry(
        id=EntryId(row["id"]),
        kind=EntryKind(row["kind"]),
        owner_id=row["owner_id"],
        name=row["name"],
        description=row["description"],
        visibility=Visibility(row["visibility"]),
        state=EntryState(row["state"]),
        revision=row["revision"],
        file_count=row["file_count"],
        size_bytes=row["size_bytes"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        version=row["version"],
        lineage_id=EntryId(row["lineage_id"]),
        base_id=row["base_id"],
        delete_time=row["delete_time"],
    )


def described_from_row(row: Row) -> Dataset | Model:
    """Reads a row of `entry_details`."""
    entry = entry_from_row(row)
    return _dataset(entry, row) if entry.kind is EntryKind.DATASET else model_from_row(entry, row)


def file_from_row(row: Row) -> StoredFile:
    """Reads a row of `files`."""
    return StoredFile(row["path"], row["size_bytes"], row["sha256"], row["create_time"], _place(row))


def upload_from_row(row: Row) -> Upload:
    """Reads a row of `uploads`."""
    header = FileHeader(EntryId(row["entry_id"]), row["path"], row["size_bytes"], row["sha256"])
    place = ContentPlace(row["object_key"])
    stored = None
    if row["complete_time"] is not None:
        stored = StoredFile(header.path, header.size_bytes, header.sha256, row["complete_time"], place)
    return Upload(UploadId(row["id"]), row["owner_id"], header, place, row["multipart_id"], stored, row["is_direct"])


def clip_from_row(row: Row) -> Clip:
    """Reads a file joined with what decoding found of it."""
    return Clip(row["path"], row["sha256"], row["size_bytes"], decoded_from_row(row), _place(row))


def outcome_from_row(row: Row) -> ProbeOutcome:
    """Reads a row of `clip_probes`."""
    if row["fault"] is not None:
        return FaultyClip(ClipFault(row["fault"]), row["detail"])
    return decoded_from_row(row)


def quarantined_from_row(row: Row) -> QuarantinedItem:
    """Reads a row of `quarantine`."""
    return QuarantinedItem(row["file"], row["row"], row["sha256"], row["reason"], row["message"])


def issue_from_row(row: Row) -> Issue:
    """Reads a row of `dataset_issues`."""
    return Issue(
        severity=Severity(row["severity"]),
        reason=row["reason"],
        message=row["message"],
        remedy=row["remedy"],
        file=row["file"],
        row=row["row"],
        field=row["field"],
    )


def sample_from_row(row: Row) -> Sample:
    """Reads a row of `samples`."""
    return Sample(row["sample_id"], row["split"], messages_from_json(row["messages"]), tuple(row["tags"]))


def hash_to_column(value: int) -> int:
    """Returns the signed number in which 64 bits are kept; reading takes it modulo 2^64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _dataset(entry: Entry, row: Row) -> Dataset:
    if row["clips"] is None:  # never validated
        return Dataset(entry)
    findings = DatasetFindings(
        clips=row["clips"],
        clips_checked=row["clips_checked"],
        duration_seconds=row["duration_seconds"],
        rows=row["rows"],
        train_rows=row["train_rows"],
        eval_rows=row["eval_rows"],
        errors=row["errors"],
        warnings=row["warnings"],
        annotation_format=AnnotationFormat(row["annotation_format"]) if row["annotation_format"] else None,
        fingerprint=row["fingerprint"],
        quarantined_rows=row["quarantined_rows"],
        quarantined_clips=row["quarantined_clips"],
    )
    return Dataset(entry, findings)


def _place(row: Row) -> ContentPlace:
    return ContentPlace(row["object_key"], row["location_id"], row["object_etag"])


def decoded_from_row(row: Row) -> DecodedClip:
    """Reads what decoding found of a sound clip."""
    return DecodedClip(
        frame_count=row["frame_count"],
        duration_seconds=row["duration_seconds"],
        fps=row["fps"],
        width=row["width"],
        height=row["height"],
        codec=row["codec"],
        damaged_frames=row["damaged_frames"],
        decoder=row["decoder"],
        is_variable_frame_rate=row["is_variable_frame_rate"],
        rotation=row["rotation"],
        has_audio=row["has_audio"],
        perceptual_hash=(row["perceptual_hash"] or 0) % (1 << 64),
        is_browser_playable=row["is_browser_playable"],
        has_poster=row["has_poster"],
        has_proxy=row["has_proxy"],
    )
