"""Messages about imports and storage locations, and domain objects, there and back."""

from __future__ import annotations

from reeltune.catalog.v1 import import_pb2, storage_location_pb2, storage_service_pb2

from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.imports import (
    AnnotationSource,
    BucketSource,
    FolderSource,
    HubSource,
    Import,
    ImportDraft,
    ImportFailure,
    ImportSource,
    UrlSource,
    bucket_source,
    path_of_url,
)
from catalog_svc.domain.storage import StorageCredentials, StorageLocation
from catalog_svc.rpc.convert import time_to_proto


def draft_from_proto(parent_id: str, source: import_pb2.ImportSource) -> ImportDraft:
    """Reads what is to be imported; raises InvalidField."""
    return ImportDraft(EntryId(parent_id), _source_from_proto(source))


def import_to_proto(found: Import) -> import_pb2.Import:
    counts = found.counts
    return import_pb2.Import(
        id=found.id,
        parent_id=found.draft.parent_id,
        source=_source_to_proto(found.draft.source),
        state=import_pb2.ImportState.Value(f"IMPORT_STATE_{found.state}"),
        counts=import_pb2.ImportCounts(
            files=counts.files,
            files_done=counts.files_done,
            files_failed=counts.files_failed,
            bytes_done=counts.bytes_done,
            bytes=counts.bytes,
            listed=counts.is_listed,
        ),
        error_reason=found.error_reason,
        error_message=found.error_message,
        commit=found.commit,
        create_time=time_to_proto(found.create_time),
        end_time=None if found.end_time is None else time_to_proto(found.end_time),
    )


def failure_to_proto(failure: ImportFailure) -> import_pb2.ImportError:
    location = failure.location.partition("?")[0]
    return import_pb2.ImportError(path=failure.path, location=location, reason=failure.reason, message=failure.message)


def location_to_proto(location: StorageLocation) -> storage_location_pb2.StorageLocation:
    return storage_location_pb2.StorageLocation(
        id=location.id,
        name=location.name,
        endpoint=location.endpoint,
        region=location.region,
        bucket=location.bucket,
        access_key_id=location.access_key_id,
        has_secret=location.has_secret,
        create_time=time_to_proto(location.create_time),
        update_time=time_to_proto(location.update_time),
    )


def credentials_from_proto(credentials: storage_service_pb2.StorageCredentials) -> StorageCredentials:
    return StorageCredentials(credentials.access_key_id, credentials.secret_access_key)


def _source_from_proto(source: import_pb2.ImportSource) -> ImportSource:
    kind = source.WhichOneof("source")
    if kind == "url":
        return UrlSource(source.url.url, source.url.path or path_of_url(source.url.url))
    if kind == "annotations":
        return AnnotationSource(source.annotations.url, source.annotations.file)
    if kind == "bucket":
        bucket = source.bucket
        is_reference = bucket.mode == import_pb2.IMPORT_MODE_REFERENCE
        return bucket_source(bucket.uri, bucket.storage_location_id, is_reference=is_reference)
    if kind == "hub":
        return HubSource(source.hub.repository, source.hub.revision)
    return FolderSource(source.folder.path)


def _source_to_proto(source: ImportSource) -> import_pb2.ImportSource:
    """Returns a source without the query of its address, which may hold a signature."""
    if isinstance(source, UrlSource):
        return import_pb2.ImportSource(url=import_pb2.UrlSource(url=_unsigned(source.url), path=source.path))
    if isinstance(source, AnnotationSource):
        said = (
            import_pb2.AnnotationSource(url=_unsigned(source.url))
            if source.url
            else import_pb2.AnnotationSource(file=source.file)
        )
        return import_pb2.ImportSource(annotations=said)
    if isinstance(source, BucketSource):
        mode = import_pb2.IMPORT_MODE_REFERENCE if source.is_reference else import_pb2.IMPORT_MODE_COPY
        bucket = import_pb2.BucketSource(
            uri=f"s3://{source.bucket}/{source.prefix}", storage_location_id=source.location_id or "", mode=mode
        )
        return import_pb2.ImportSource(bucket=bucket)
    if isinstance(source, HubSource):
        hub = import_pb2.HubSource(repository=source.repository, revision=source.revision)
        return import_pb2.ImportSource(hub=hub)
    return import_pb2.ImportSource(folder=import_pb2.FolderSource(path=source.path))


def _unsigned(url: str) -> str:
    return url.partition("?")[0]
