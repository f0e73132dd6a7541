"""Imports: files that the service fetches by itself from where a user says they are."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NewType
from urllib.parse import unquote, urlsplit

from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.errors import FileNotAllowed, InvalidField, SourceRefused
from catalog_svc.domain.file_path import BadPath, check_path, extension, file_name
from catalog_svc.domain.issue import shown
from catalog_svc.domain.model_files import check_model_file, is_code
from catalog_svc.domain.storage import LocationId
from catalog_svc.domain.storage_usage import StorageAllowance

ImportId = NewType("ImportId", str)

MAX_FAILED_FILES = 1000
"""An import of which more files fail is given up."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNPLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")
_MEDIA_FOLDER = "media"


class ImportState(enum.StrEnum):
    """Where in its life an import is; all but RUNNING are final."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """One file at an https address."""

    url: str
    path: str


@dataclass(frozen=True, slots=True)
class AnnotationSource:
    """An annotation file whose rows name clips by https addresses: at an address itself, or in the dataset."""

    url: str
    file: str


@dataclass(frozen=True, slots=True)
class BucketSource:
    """All objects under a prefix."""

    bucket: str
    prefix: str
    location_id: LocationId | None
    is_reference: bool


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a model hub."""

    repository: str
    revision: str


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder on the service's machine."""

    path: str


ImportSource = UrlSource | AnnotationSource | BucketSource | HubSource | FolderSource
_SOURCES: Mapping[str, type[ImportSource]] = {
    "url": UrlSource,
    "annotations": AnnotationSource,
    "bucket": BucketSource,
    "hub": HubSource,
    "folder": FolderSource,
}


@dataclass(frozen=True, slots=True)
class ImportDraft:
    """What a user asks for."""

    parent_id: EntryId
    source: ImportSource

    @property
    def parent_kind(self) -> EntryKind:
        return EntryKind.DATASET if self.parent_id.startswith("ds_") else EntryKind.MODEL

    def digest(self) -> str:
        """Identifies the draft, so that a repeated request is told from one with another body."""
        text = json.dumps([self.parent_id, source_to_json(self.source)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """How far an import has come."""

    files: int = 0
    files_done: int = 0
    files_failed: int = 0
    bytes: int = 0
    bytes_done: int = 0
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """An import as it is."""

    id: ImportId
    owner_id: str
    draft: ImportDraft
    state: ImportState
    counts: ImportCounts
    allowance: StorageAllowance
    """What its owner might store when it began."""
    error_reason: str
    error_message: str
    commit: str
    """What a hub's revision stood for at the beginning."""
    failures: int
    """How often it was cut by what nobody had foreseen since a file of it was last put in place."""
    create_time: datetime
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class ImportItem:
    """A file of a source."""

    path: str
    """Where it goes."""
    location: str
    """Where it comes from: a URL, a key, a path."""
    size_bytes: int | None = None
    etag: str = ""
    fault: str = ""
    """Why it is not fetched at all, as a reason; else empty."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A file that was given up."""

    path: str
    location: str
    reason: str
    message: str


def source_to_json(source: ImportSource) -> dict[str, Any]:
    """Returns a source as JSON values."""
    kind = next(name for name, type_ in _SOURCES.items() if isinstance(source, type_))
    return {"kind": kind, **asdict(source)}


def source_from_json(value: Mapping[str, Any]) -> ImportSource:
    """Inverts `source_to_json`."""
    fields = dict(value)
    return _SOURCES[fields.pop("kind")](**fields)


def bucket_source(uri: str, location_id: str, *, is_reference: bool) -> BucketSource:
    """Reads `s3://bucket/prefix`; raises InvalidField."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidField("source.bucket.uri", "names no bucket; write s3://bucket/prefix")
    if "\0" in prefix:
        raise InvalidField("source.bucket.uri", "holds a NUL character; remove it")
    if is_reference and not location_id:
        raise InvalidField("source.bucket.storage_location_id", "an import by reference needs one; register the bucket")
    return BucketSource(bucket, prefix, LocationId(location_id) if location_id else None, is_reference)


def check_import(draft: ImportDraft) -> None:
    """Raises InvalidField or FileNotAllowed for what can be seen at once to be wrong."""
    source = draft.source
    is_model = draft.parent_kind is EntryKind.MODEL
    if isinstance(source, AnnotationSource):
        if is_model:
            raise InvalidField("source.annotations", "a model has no annotations; import it from elsewhere")
        if source.file:
            _check_path("source.annotations.file", source.file)
    elif isinstance(source, UrlSource):
        _check_path("source.url.path", source.path)
        if is_model:
            check_model_file(source.path)
    elif isinstance(source, BucketSource) and source.is_reference and is_model:
        raise InvalidField("source.bucket.mode", "models are imported by copy only; use IMPORT_MODE_COPY")


def item_of(kind: EntryKind, path: str, location: str, size_bytes: int | None, etag: str = "") -> ImportItem | None:
    """Returns what is to be done with a file of a listed source; None for one that is left out.

    Left out is what only describes a repository, and in models what no model folder may hold.

    Raises:
        SourceRefused: it is code beside a model: such a source is refused as a whole.
    """
    try:
        check_path(path)
    except BadPath as error:
        message = f"the path {error}"
        return ImportItem(shown(path, 200), shown(location, 300), size_bytes, etag, "PATH_INVALID", message)
    if kind is EntryKind.MODEL:
        return _model_item(path, location, size_bytes, etag)
    name = file_name(path)
    if any(part.startswith(".") for part in path.split("/")) or name.partition(".")[0].upper() in _ABOUT:
        return None
    return ImportItem(path, location, size_bytes, etag)


def _model_item(path: str, location: str, size_bytes: int | None, etag: str) -> ImportItem | None:
    try:
        check_model_file(path)
    except FileNotAllowed as error:
        if is_code(path):
            raise SourceRefused("FILE_NOT_ALLOWED", f"{path}: {error.problem}", error.remedy) from error
        return None
    return ImportItem(path, location, size_bytes, etag)


def path_of_url(url: str) -> str:
    """Returns the last part of a URL's path as a file name; `file` where it has none."""
    name = _UNPLAIN.sub("_", unquote(urlsplit(url).path).rpartition("/")[2]).lstrip(".")
    return name[-100:] or "file"


def bound_path(url: str) -> str:
    """Returns where the clip at a URL lies once it is imported, such as `media/host/1f2e3d4c5b6a-name.mp4`.

    It depends on the URL only, so a row that names the URL means the file there, and nothing has to be remembered.
    """
    text = url.strip()
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        host = ""
    host = _UNPLAIN.sub("_", host)[-100:].strip(".") or "host"
    name = path_of_url(text)
    if not extension(name):
        name = f"{name}.mp4"  # what fetches clips by address often leaves the ending out
    return f"{_MEDIA_FOLDER}/{host}/{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}-{name}"


def is_web_address(text: str) -> bool:
    """Tells whether a row names a clip by where it is on the web."""
    return text.lower().startswith(("https://", "http://"))


def _check_path(field: str, path: str) -> None:
    try:
        check_path(path)
    except BadPath as error:
        raise InvalidField(field, str(error)) from error
