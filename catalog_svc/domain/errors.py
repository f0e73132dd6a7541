"""What can go wrong in the catalog, by type. Every text tells what is wrong and what to do next."""

from __future__ import annotations

_SHOWN_PATH_LENGTH = 512


class CatalogError(Exception):
    """The base of the catalog's own errors."""


class EntryNotFound(CatalogError):
    """No such dataset or model, or not the caller's to see: which of the two, nobody may learn."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"there is no such {kind.lower()} among those that you may use; check its id")
        self.kind = kind


class EntryExists(CatalogError):
    """The owner has an entry of that name already."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"you have a {kind.lower()} named {name!r} already; choose another name or use that one")
        self.kind = kind
        self.name = name


class StateConflict(CatalogError):
    """The action is not possible in the entry's present state."""

    def __init__(self, kind: str, state: str, allowed: tuple[str, ...], remedy: str = "") -> None:
        super().__init__(
            f"the {kind.lower()} is {state}; this needs it to be {' or '.join(allowed)}"
            + (f": {remedy}" if remedy else "")
        )
        self.kind = kind
        self.state = state
        self.allowed = allowed


class EntryInUse(CatalogError):
    """A live job uses the entry."""

    def __init__(self, kind: str, job_ids: tuple[str, ...], more: bool, others: int) -> None:
        users = [", ".join(job_ids) + (" …" if more else "")] if job_ids else []
        users += [f"{others} of other users"] if others else []
        super().__init__(
            f"jobs that are not final use this {kind.lower()}: {' and '.join(users)}; stop them or wait for their end, "
            "then delete it"
        )
        self.kind = kind
        self.job_ids = job_ids
        self.others = others


class QuotaExceeded(CatalogError):
    """The owner's storage is full."""

    def __init__(self, limit_bytes: int, used_bytes: int, wanted_bytes: int) -> None:
        super().__init__(
            f"{wanted_bytes} bytes more would exceed your storage quota: {used_bytes} of {limit_bytes} bytes are used "
            "by datasets, models, artifacts and checkpoints; delete what you no longer need, or ask an admin for more"
        )
        self.limit_bytes = limit_bytes
        self.used_bytes = used_bytes
        self.wanted_bytes = wanted_bytes


class NotQuarantinable(CatalogError):
    """An error that no leaving out of rows or clips removes."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(f"{message} ({reason}): this concerns the dataset as a whole; {remedy}")
        self.reason = reason


class RequestIdReused(CatalogError):
    """The same request_id came with another body."""

    def __init__(self) -> None:
        super().__init__("request_id was used before for a different request; send a new UUID with each new request")


class EtagMismatch(CatalogError):
    """The entry has changed since the caller read it."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"the {kind.lower()} has changed since you read it; get it again and repeat the change")
        self.kind = kind


class InvalidField(CatalogError):
    """A field of the request breaks a rule that the contract cannot express."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class FileNotAllowed(CatalogError):
    """A file that its parent can never hold."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


class FileTooLarge(CatalogError):
    """The file, or the number of files, is more than the operator allows."""

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{path} has {size_bytes} bytes; this service takes files of at most {limit_bytes} bytes")
        self.path = path
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class BatchTooLarge(CatalogError):
    """The files of a batch have more parts than one call names addresses for."""

    def __init__(self, path: str, part_count: int, limit: int) -> None:
        super().__init__(
            f"{path} has {part_count} parts, with which the files of this batch would have more than {limit}; "
            "open it by itself, with CreateUpload"
        )
        self.path = path
        self.part_count = part_count
        self.limit = limit


class TooManyFiles(CatalogError):
    """The parent holds as many files as the operator allows."""

    def __init__(self, kind: str, limit: int) -> None:
        super().__init__(f"the {kind.lower()} holds {limit} files, the most this service allows; split it in two")
        self.kind = kind
        self.limit = limit


class StoredFileNotFound(CatalogError):
    """The parent holds no file of that path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no file {path!r} in it; ListFiles shows those there are")
        self.path = path


class ClipNotFound(CatalogError):
    """The dataset holds no clip of that path."""

    def __init__(self, path: str) -> None:
        # What was asked for may be of any length; an error has to fit into a trailer.
        self.path = path if len(path) <= _SHOWN_PATH_LENGTH else f"{path[:_SHOWN_PATH_LENGTH]}…"
        super().__init__(f"the dataset holds no clip {self.path!r}; ListSamples shows those there are")


class UploadNotFound(CatalogError):
    """No such upload, or not the caller's."""

    def __init__(self) -> None:
        super().__init__("there is no such upload of yours; it may have expired: create it again")


class UploadIncomplete(CatalogError):
    """Parts of the upload have not arrived, or with the wrong length."""

    def __init__(self, missing: tuple[int, ...], part_count: int) -> None:
        shown = ", ".join(str(number) for number in missing[:20]) + (" …" if len(missing) > 20 else "")
        super().__init__(
            f"{len(missing)} of {part_count} parts are missing or have the wrong length: {shown}; "
            "PUT them (CreateUpload gives fresh URLs) and complete the upload again"
        )
        self.missing = missing
        self.part_count = part_count


class DigestMismatch(CatalogError):
    """The bytes that arrived are not those that were announced."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"the bytes of {path} have SHA-256 {found}, announced was {expected}; send the file again")
        self.path = path
        self.expected = expected
        self.found = found


class LengthMismatch(CatalogError):
    """Fewer or more bytes arrived than were announced."""

    def __init__(self, path: str, expected: int, found: int) -> None:
        super().__init__(f"{found} bytes of {path} arrived, {expected} were announced; send the file again")
        self.path = path
        self.expected = expected
        self.found = found


class UploadsBusy(CatalogError):
    """As many uploads are streamed at once as this service allows."""

    def __init__(self) -> None:
        super().__init__("too many files are streamed at this moment; try again in a few seconds, or use CreateUpload")


class UploadStalled(CatalogError):
    """The client of a streamed upload has fallen silent."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no byte of the upload came for {seconds:g} s; send the file again")
        self.seconds = seconds


class ServiceStopping(CatalogError):
    """A long stream ends because the service does."""

    def __init__(self) -> None:
        super().__init__("the service is restarting; call again in a few seconds")


class LeaseLost(CatalogError):
    """Another replica took over the validation, or the entry is gone. Never leaves the service."""


class SampleNotHeld(CatalogError):
    """A sample has something that the format asked for has no place for."""

    def __init__(self, format_: str, row: int, sample_id: str, field: str, what: str) -> None:
        super().__init__(
            f"{format_} has no place for {what} ({field} of sample {sample_id!r}, row {row}); "
            "CONTENT_PARTS has one for everything"
        )
        self.format = format_
        self.row = row
        self.sample_id = sample_id
        self.field = field
        self.what = what


class SampleNotFound(CatalogError):
    """The dataset holds no sample of that id."""

    def __init__(self, sample_id: str) -> None:
        self.sample_id = sample_id if len(sample_id) <= _SHOWN_PATH_LENGTH else f"{sample_id[:_SHOWN_PATH_LENGTH]}…"
        super().__init__(f"the dataset holds no sample {self.sample_id!r}; ListSamples shows those there are")


class PreviewUnavailable(CatalogError):
    """The operator offers no previews."""

    def __init__(self) -> None:
        super().__init__(
            "this mesh makes no previews, as no model tool is configured; ask the operator to set "
            "CATALOG_MODEL_TOOL_COMMAND"
        )


class PreviewRefused(CatalogError):
    """Training would refuse the sample or the model, too."""

    def __init__(self, cause: str, problem: str, remedy: str) -> None:
        super().__init__(f"training would refuse this: {problem}; {remedy}")
        self.cause = cause
        self.problem = problem
        self.remedy = remedy


class PreviewFailed(CatalogError):
    """The model tool has broken down over it."""

    def __init__(self, cause: str, problem: str) -> None:
        super().__init__(f"no preview could be made: {problem}; try fewer or smaller frames, or another sample")
        self.cause = cause


class PreviewsBusy(CatalogError):
    """As many previews wait as this service allows."""

    def __init__(self) -> None:
        super().__init__("too many previews are being made at this moment; try again in a few seconds")


class SourceRefused(CatalogError):
    """Something of a source may not, or can never, be fetched: another try ends the same."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.reason = reason
        self.message = message
        self.remedy = remedy


class SourceUnavailable(CatalogError):
    """A source does not give what it should at the moment; a later try may succeed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SourceNotEnabled(CatalogError):
    """The operator does not allow imports from such a place."""

    def __init__(self, source: str, setting: str) -> None:
        super().__init__(f"imports from a {source} are not allowed here; the operator can allow them with {setting}")
        self.source = source


class ImportNotFound(CatalogError):
    """No such import, or not the caller's."""

    def __init__(self) -> None:
        super().__init__("there is no such import of yours; check its id")


class ImportRunning(CatalogError):
    """The files of the entry are still coming."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"an import into the {kind.lower()} is running; wait until it has ended, or cancel it")
        self.kind = kind


class TooManyImports(CatalogError):
    """The owner has as many imports running as the operator allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} of your imports are running, the most this service allows; wait until one has ended")
        self.limit = limit


class LocationNotFound(CatalogError):
    """No such storage location, or not the caller's."""

    def __init__(self) -> None:
        super().__init__("there is no such storage location of yours; ListStorageLocations shows those there are")


class LocationExists(CatalogError):
    """The owner has a location of that name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"you have a storage location named {name!r} already; choose another name or use that one")
        self.name = name


class LocationInUse(CatalogError):
    """Something depends on the location."""

    def __init__(self, by: str) -> None:
        super().__init__(f"{by}; wait until the import has ended, and delete the datasets that refer to it")
        self.by = by


class TooManyLocations(CatalogError):
    """The owner has as many locations as there may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"you have {limit} storage locations, the most there may be; delete one")
        self.limit = limit


class SecretsNotConfigured(CatalogError):
    """There is no key to encrypt secrets with."""

    def __init__(self) -> None:
        super().__init__("this service keeps no secrets; the operator must set CATALOG_STORAGE_KEY first")


class ReferenceBroken(CatalogError):
    """A clip that was imported by reference is no longer what it was."""

    def __init__(self, key: str, cause: str) -> None:
        shown = key if len(key) <= _SHOWN_PATH_LENGTH else f"{key[:_SHOWN_PATH_LENGTH]}…"
        super().__init__(
            f"the object {shown!r}, which the dataset refers to, is changed, gone or closed ({cause}); "
            "put the former one back, or import it again into a new version"
        )
        self.key = shown
        self.cause = cause
