"""What can go wrong in a trainer, by kind. Texts are for people and hold no URL, token or host path."""

from __future__ import annotations

from datetime import timedelta


class AttemptFencedError(Exception):
    """The job has another attempt by now or is final: whatever this one has is worth nothing."""


class SchedulerUnavailableError(Exception):
    """The scheduler does not answer, or answers that it cannot now. Asking again later may help."""


class CredentialRefusedError(Exception):
    """The token or grant is not accepted (any more)."""


class CallRefusedError(Exception):
    """Another service refused a call for a reason that asking again will not change."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        """The ErrorInfo reason, such as `MODEL_NOT_FOUND`."""


class StorageUnavailableError(Exception):
    """A file could not be moved to or from the object store, or there is no room for it here."""


class DigestMismatchError(StorageUnavailableError):
    """The bytes that came are not the bytes that were promised."""


class FileGoneError(StorageUnavailableError):
    """The object store has no such file (any more)."""


class UrlExpiredError(StorageUnavailableError):
    """The presigned URL is not accepted any more; a fresh one may be."""


class CheckpointDamagedError(Exception):
    """A checkpoint is not what was saved, in whole or in part."""


class UnsafePathError(ValueError):
    """A file's path would lead out of the folder it belongs to."""


class NoSuchRowsError(ValueError):
    """The dataset has no rows that could be asked about."""


class FilesIncompleteError(Exception):
    """The scheduler did not find all files of a publication in the object store as announced."""


class DataFolderBusyError(Exception):
    """Another trainer works in the same data folder."""


class ProbeFailedError(Exception):
    """The start-up probe gave no result."""


class AttemptNotHereError(Exception):
    """No attempt of that job runs on this trainer."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no attempt of {job_id} runs here")
        self.job_id = job_id


class InferenceBusyError(Exception):
    """Too many questions wait already, or training needs the device."""

    def __init__(self, why: str, retry_after: timedelta) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class InferenceInterruptedError(Exception):
    """The inference process ended before the answer did; the next question gets a fresh one."""


class QuestionRefusedError(Exception):
    """This question cannot be answered, whoever asks it again."""


class ClipUndecodableError(QuestionRefusedError):
    """The clip gives no frames."""


class DeviceUnfitError(Exception):
    """This device, or this trainer, cannot do what the job or its model needs; another may."""


class ModelUnfitError(Exception):
    """The model or adapter cannot be loaded for inference."""
