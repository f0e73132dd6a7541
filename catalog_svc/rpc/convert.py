"""Messages of the contract and domain objects, there and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from reeltune.catalog.v1 import dataset_pb2, model_pb2, sample_pb2, snapshot_service_pb2, upload_pb2, upload_service_pb2
from reeltune.catalog.v1.visibility_pb2 import Visibility as VisibilityPb

from catalog_svc.clients.object_store import SignedUrl
from catalog_svc.domain.clip import Clip
from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryChange, EntryDraft, EntryId, EntryKind, Visibility
from catalog_svc.domain.errors import InvalidField
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.model import Model, ModelIssue
from catalog_svc.domain.sample import AnnotationFormat, ContentPart, Sample, TextPart
from catalog_svc.domain.upload import FileHeader, StoredFile
from catalog_svc.rpc.convert_model import forward_to_proto, model_facts_to_proto
from catalog_svc.usecases.show_clips import ShownClip
from catalog_svc.usecases.upload_by_parts import UploadOffer

_CHANGEABLE = ("name", "description", "visibility")


def dataset_to_proto(dataset: Dataset) -> dataset_pb2.Dataset:
    entry, found = dataset.entry, dataset.findings
    return dataset_pb2.Dataset(
        id=entry.id,
        name=entry.name,
        description=entry.description,
        owner_id=entry.owner_id,
        visibility=visibility_to_proto(entry.visibility),
        state=dataset_pb2.DatasetState.Value(f"DATASET_STATE_{entry.state}"),
        counts=dataset_pb2.DatasetCounts(
            files=entry.file_count,
            size_bytes=entry.size_bytes,
            clips=found.clips,
            clips_checked=found.clips_checked,
            duration_seconds=found.duration_seconds,
            rows=found.rows,
            train_rows=found.train_rows,
            eval_rows=found.eval_rows,
            errors=found.errors,
            warnings=found.warnings,
            quarantined_rows=found.quarantined_rows,
            quarantined_clips=found.quarantined_clips,
        ),
        annotation_format=_format_to_proto(found.annotation_format),
        fingerprint=found.fingerprint,
        create_time=time_to_proto(entry.create_time),
        update_time=time_to_proto(entry.update_time),
        etag=entry.etag,
        version=entry.version,
        base_dataset_id=entry.base_id or "",
        delete_time=time_to_proto(entry.delete_time) if entry.delete_time else None,
    )


def model_to_proto(model: Model) -> model_pb2.Model:
    entry = model.entry
    return model_pb2.Model(
        id=entry.id,
        name=entry.name,
        description=entry.description,
        owner_id=entry.owner_id,
        visibility=visibility_to_proto(entry.visibility),
        state=model_pb2.ModelState.Value(f"MODEL_STATE_{entry.state}"),
        facts=None if model.facts is None else model_facts_to_proto(model.facts),
        forward_check=forward_to_proto(model.forward),
        issues=[_model_issue_to_proto(found) for found in model.issues],
        create_time=time_to_proto(entry.create_time),
        update_time=time_to_proto(entry.update_time),
        etag=entry.etag,
        delete_time=time_to_proto(entry.delete_time) if entry.delete_time else None,
    )


def issue_to_proto(found: Issue) -> dataset_pb2.DatasetIssue:
    return dataset_pb2.DatasetIssue(
        severity=dataset_pb2.IssueSeverity.Value(f"ISSUE_SEVERITY_{found.severity}"),
        reason=found.reason,
        file=found.file,
        row=found.row,
        field=found.field,
        message=found.message,
        remedy=found.remedy,
    )


def sample_to_proto(sample: Sample) -> sample_pb2.Sample:
    messages = [
        sample_pb2.Message(role=message.role.value, content=[_part_to_proto(part) for part in message.content])
        for message in sample.messages
    ]
    return sample_pb2.Sample(sample_id=sample.sample_id, split=sample.split, messages=messages, tags=sample.tags)


def clip_to_proto(clip: Clip, signed: SignedUrl | None = None) -> sample_pb2.Clip:
    decoded = clip.decoded
    return sample_pb2.Clip(
        path=clip.path,
        sha256=clip.sha256,
        size_bytes=clip.size_bytes,
        frame_count=decoded.frame_count,
        duration_seconds=decoded.duration_seconds,
        fps=decoded.fps,
        width=decoded.width,
        height=decoded.height,
        codec=decoded.codec,
        decoder=decoded.decoder,
        is_variable_frame_rate=decoded.is_variable_frame_rate,
        rotation=decoded.rotation,
        has_audio=decoded.has_audio,
        damaged_frames=decoded.damaged_frames,
        perceptual_hash=f"{decoded.perceptual_hash:016x}",
        is_browser_playable=decoded.is_browser_playable,
        is_reference=clip.place.location_id is not None,
        url=signed.url if signed else "",
        url_expire_time=time_to_proto(signed.expire_time) if signed else None,
    )


def shown_clip_to_proto(shown: ShownClip) -> sample_pb2.Clip:
    message = clip_to_proto(shown.clip, shown.original)
    message.poster_url = shown.poster.url if shown.poster else ""
    message.proxy_url = shown.proxy.url if shown.proxy else ""
    return message


def model_file_to_proto(file: StoredFile, signed: SignedUrl) -> snapshot_service_pb2.ModelFile:
    return snapshot_service_pb2.ModelFile(
        path=file.path,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        url=signed.url,
        url_expire_time=time_to_proto(signed.expire_time),
    )


def file_to_proto(file: StoredFile) -> upload_pb2.StoredFile:
    return upload_pb2.StoredFile(
        path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, create_time=time_to_proto(file.create_time)
    )


def upload_to_proto(offer: UploadOffer) -> upload_pb2.Upload:
    header = offer.upload.header
    return upload_pb2.Upload(
        id=offer.upload.id,
        parent_id=header.parent_id,
        path=header.path,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        complete=offer.upload.stored is not None,
        parts=[
            upload_pb2.UploadPart(
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=part.size_bytes,
                url=url,
                arrived=part.number in offer.arrived,
                headers=offer.headers,
            )
            for part, url in offer.parts
        ],
        expire_time=time_to_proto(offer.expire_time),
    )


def header_from_proto(header: upload_service_pb2.FileHeader) -> FileHeader:
    return FileHeader(EntryId(header.parent_id), header.path, header.size_bytes, header.sha256)


def draft_from_proto(kind: EntryKind, name: str, description: str, visibility: VisibilityPb.ValueType) -> EntryDraft:
    return EntryDraft(kind, name, description, visibility_from_proto(visibility) or Visibility.PRIVATE)


def change_from_proto(resource: dataset_pb2.Dataset | model_pb2.Model, mask: FieldMask, noun: str) -> EntryChange:
    """Reads an update: the fields of the mask, or without one those that are set; raises InvalidField."""
    fields = tuple(mask.paths) or tuple(name for name in _CHANGEABLE if getattr(resource, name))
    for name in fields:
        if name not in _CHANGEABLE:
            raise InvalidField("update_mask", f"{name!r} cannot be changed; name any of {', '.join(_CHANGEABLE)}")
    visibility = visibility_from_proto(resource.visibility) if "visibility" in fields else None
    if "visibility" in fields and visibility is None:
        raise InvalidField(f"{noun}.visibility", "is not set; use VISIBILITY_PRIVATE or VISIBILITY_SHARED")
    return EntryChange(
        name=resource.name if "name" in fields else None,
        description=resource.description if "description" in fields else None,
        visibility=visibility,
        etag=resource.etag,
    )


def visibility_to_proto(visibility: Visibility) -> VisibilityPb.ValueType:
    return VisibilityPb.Value(f"VISIBILITY_{visibility}")


def visibility_from_proto(visibility: VisibilityPb.ValueType) -> Visibility | None:
    """Returns None for UNSPECIFIED, and for numbers that this version does not know."""
    known = {VisibilityPb.VISIBILITY_PRIVATE: Visibility.PRIVATE, VisibilityPb.VISIBILITY_SHARED: Visibility.SHARED}
    return known.get(visibility)


def time_to_proto(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


def clips_to_batch(clips: Iterable[tuple[Clip, SignedUrl]]) -> snapshot_service_pb2.ClipBatch:
    return snapshot_service_pb2.ClipBatch(clips=[clip_to_proto(clip, signed) for clip, signed in clips])


def samples_to_batch(samples: Iterable[Sample]) -> snapshot_service_pb2.SampleBatch:
    return snapshot_service_pb2.SampleBatch(samples=[sample_to_proto(sample) for sample in samples])


def format_from_proto(found: dataset_pb2.AnnotationFormat.ValueType) -> AnnotationFormat:
    """Reads a format; content parts where none is given."""
    if found == dataset_pb2.ANNOTATION_FORMAT_UNSPECIFIED:
        return AnnotationFormat.CONTENT_PARTS
    return AnnotationFormat(dataset_pb2.AnnotationFormat.Name(found).removeprefix("ANNOTATION_FORMAT_"))


def _format_to_proto(found: AnnotationFormat | None) -> dataset_pb2.AnnotationFormat.ValueType:
    if found is None:
        return dataset_pb2.ANNOTATION_FORMAT_UNSPECIFIED
    return dataset_pb2.AnnotationFormat.Value(f"ANNOTATION_FORMAT_{found}")


def _model_issue_to_proto(found: ModelIssue) -> model_pb2.ModelIssue:
    return model_pb2.ModelIssue(file=found.file, reason=found.reason, message=found.message, remedy=found.remedy)


def _part_to_proto(part: ContentPart) -> sample_pb2.ContentPart:
    if isinstance(part, TextPart):
        return sample_pb2.ContentPart(text=part.text)
    return sample_pb2.ContentPart(
        video=sample_pb2.VideoPart(
            path=part.path,
            start_seconds=part.start_seconds,
            end_seconds=part.end_seconds,
            fps=part.fps,
            max_frames=part.max_frames,
            max_pixels=part.max_pixels,
        )
    )
