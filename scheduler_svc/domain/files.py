"""Files that an attempt stores: their names, digests and manifests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.ids import AttemptKey, JobId

MAX_PATH_LENGTH = 512
MAX_FILE_BYTES = 64 * 1024**3
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What every object store, file system and URL takes without quoting rules getting in the way.
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*(/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*")
_CHECKPOINTS = "checkpoints/"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file by its path within an artifact or checkpoint."""

    path: str
    size_bytes: int
    sha256: str
    """In lower-case hexadecimal."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of one artifact or one checkpoint, and where they are stored."""

    key: AttemptKey
    files: tuple[StoredFile, ...]
    checkpoint_step: int | None = None
    """None for the artifact."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over `<sha256>  <path>` lines in order of path: what `sha256sum` prints, summed again."""
        lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(self.files, key=lambda file: file.path))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def manifest_name(self) -> str:
        """Object name of the manifest: beside the files' folder, where no file of a trainer can be."""
        return f"{self._folder}.manifest.json"

    @property
    def manifest(self) -> bytes:
        """The manifest: same files, same bytes."""
        files = [asdict(file) for file in sorted(self.files, key=lambda file: file.path)]
        return json.dumps({"digest": self.digest, "files": files}, indent=1, sort_keys=True).encode()

    @property
    def prefixes(self) -> tuple[str, str]:
        """Prefixes of the files and of the manifest."""
        return f"{self._folder}/", self.manifest_name

    @property
    def _folder(self) -> str:
        folder = f"{job_prefix(self.key.job_id)}attempts/{self.key.attempt}"
        return folder if self.checkpoint_step is None else f"{folder}/{_CHECKPOINTS}{self.checkpoint_step}"

    def object_name(self, file: StoredFile) -> str:
        """Returns the object name of one of the files."""
        return f"{self._folder}/{file.path}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a job made and published."""

    files: FileSet
    create_time: datetime
    dataset_id: str
    """What it was trained on."""
    dataset_version: int


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that is kept, as its job's owner sees it."""

    attempt: int
    step: int
    size_bytes: int
    create_time: datetime
    eval_loss: float | None
    """None where it was not measured."""
    is_newest: bool
    """The next attempt goes on from it, provided that its files are still whole."""


def job_prefix(job_id: JobId) -> str:
    """Returns the prefix of everything that a job stores."""
    return f"jobs/{job_id}/"


def attempt_prefixes(key: AttemptKey) -> tuple[str, str]:
    """Returns the prefixes of everything that one attempt stores: its folder, and the manifest beside it."""
    folder = f"{job_prefix(key.job_id)}attempts/{key.attempt}"
    return f"{folder}/", f"{folder}."


def check_files(file_set: FileSet, field: str) -> None:
    """Raises InvalidField, with a path below `field`, for a file that cannot be stored or is named twice."""
    seen: set[str] = set()
    for index, file in enumerate(file_set.files):
        _check_file(file, f"{field}[{index}]", is_artifact=file_set.checkpoint_step is None)
        if file.path in seen:
            raise InvalidField(f"{field}[{index}].path", "is named twice")
        seen.add(file.path)
    # `a` and `a/b` cannot both be files where somebody downloads them.
    for index, file in enumerate(file_set.files):
        if any(parent in seen for parent in _parents(file.path)):
            raise InvalidField(f"{field}[{index}].path", "lies below another file's path")


def _check_file(file: StoredFile, field: str, *, is_artifact: bool) -> None:
    if len(file.path) > MAX_PATH_LENGTH or not _PATH.fullmatch(file.path):
        raise InvalidField(
            f"{field}.path",
            f"must be a relative path of at most {MAX_PATH_LENGTH} letters, digits and `._=+-/`, "
            "no part beginning with a dot",
        )
    if is_artifact and file.path.startswith(_CHECKPOINTS):
        raise InvalidField(f"{field}.path", f"must not begin with `{_CHECKPOINTS}`, which is kept for checkpoints")
    if not 0 <= file.size_bytes <= MAX_FILE_BYTES:
        raise InvalidField(f"{field}.size_bytes", f"must be 0 to {MAX_FILE_BYTES}")
    if not _SHA256.fullmatch(file.sha256):
        raise InvalidField(f"{field}.sha256", "must be 64 lower-case hexadecimal digits")


def _parents(path: str) -> Sequence[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]
