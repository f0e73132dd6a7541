"""Validates one model: nothing that runs, everything that is needed, and the facts that jobs ask for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog_svc.clients.object_store import BytesMissing, ObjectStore
from catalog_svc.domain.chat_template import TEMPLATE_FILE
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.errors import FileNotAllowed
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.model import ModelFacts, ModelIssue, ModelVerdict
from catalog_svc.domain.model_check import PARSED_FILES, ModelContent, check_model
from catalog_svc.domain.model_files import check_model_file
from catalog_svc.domain.safetensors_header import (
    LENGTH_BYTES,
    BadSafetensors,
    SafetensorsHeader,
    header_length,
    parse_header,
)
from catalog_svc.domain.upload import StoredFile
from catalog_svc.probe.pool import ProbePool
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases.lost_content import CONTENT_LOST, LOST, REMEDY, forget_lost
from catalog_svc.usecases.try_model import TryModel

MAX_JSON_BYTES = 128 * 1024 * 1024
MAX_PARSED_BYTES = 16 * 1024 * 1024
MAX_TEMPLATE_BYTES = 1024 * 1024
_USE_PLAIN_MODEL = "use a model that transformers knows by itself, and remove these keys from the file"


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    parsed: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, SafetensorsHeader] = field(default_factory=dict)
    issues: list[ModelIssue] = field(default_factory=list)
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class ValidateModel:
    """Makes verdicts on models."""

    files: FileStore
    objects: ObjectStore
    pool: ProbePool
    spool_dir: Path | None
    try_model: TryModel

    async def check(self, model_id: EntryId) -> ModelVerdict:
        """Returns the verdict; a model whose files are sound is tried, too."""
        files = await self.files.list_all(model_id)
        reading = _Reading()
        with tempfile.TemporaryDirectory(prefix="reeltune-model-", dir=self.spool_dir) as folder:
            for file in files:
                try:
                    await self._read(file, Path(folder), reading)
                except BytesMissing:
                    await forget_lost(self.files, self.objects, file)
                    reading.issues.append(ModelIssue(CONTENT_LOST, f"{file.path}: {LOST}", REMEDY, file.path))
        found = check_model(_content(files, reading))
        return await self.try_model.judge(found, files) if isinstance(found, ModelFacts) else ModelVerdict(None, found)

    async def _read(self, file: StoredFile, folder: Path, reading: _Reading) -> None:
        try:
            check_model_file(file.path)
        except FileNotAllowed as error:
            reading.issues.append(ModelIssue("FILE_NOT_ALLOWED", error.problem, error.remedy, file.path))
            return
        if extension(file.path) == ".json":
            await self._read_json(file, folder, reading)
        elif extension(file.path) == ".safetensors":
            await self._read_header(file, reading)
        elif file.path == TEMPLATE_FILE:
            reading.chat_template = (await self.objects.read_beginning(file.place, MAX_TEMPLATE_BYTES)).decode(
                errors="replace"
            )

    async def _read_json(self, file: StoredFile, folder: Path, reading: _Reading) -> None:
        """Has a child search the file first: a stranger's JSON may be deep or huge enough to hurt its parser."""
        limit = MAX_PARSED_BYTES if file.path in PARSED_FILES else MAX_JSON_BYTES
        if file.size_bytes > limit:
            what = f"{file.path} has {file.size_bytes} bytes, at most {limit} are read"
            reading.issues.append(ModelIssue("JSON_INVALID", what, "upload the file of the original model", file.path))
            return
        path = folder / file.sha256
        try:
            await self.objects.fetch(file.place, file.size_bytes, file.sha256, path)
            places = await self.pool.remote_code_places(path)
            if places is None:
                what = f"{file.path} is not JSON"
                reading.issues.append(ModelIssue("JSON_INVALID", what, "upload the file again", file.path))
            elif places:
                what = f"{file.path} asks for code to be run: {', '.join(places)}"
                reading.issues.append(ModelIssue("REMOTE_CODE", what, _USE_PLAIN_MODEL, file.path))
            elif file.path in PARSED_FILES:
                self._keep(file, json.loads(path.read_bytes()), reading)
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, file: StoredFile, value: Any, reading: _Reading) -> None:
        reading.parsed[file.path] = value
        if not isinstance(value, dict):
            what = f"{file.path} is no JSON object"
            reading.issues.append(ModelIssue("JSON_INVALID", what, "upload the file again", file.path))

    async def _read_header(self, file: StoredFile, reading: _Reading) -> None:
        try:
            first = await self.objects.read_beginning(file.place, LENGTH_BYTES)
            length = header_length(first, file.size_bytes)
            beginning = await self.objects.read_beginning(file.place, LENGTH_BYTES + length)
            reading.headers[file.path] = parse_header(beginning[LENGTH_BYTES:], file.size_bytes)
        except BadSafetensors as error:
            what = f"{file.path}: {error}"
            reading.issues.append(
                ModelIssue("SAFETENSORS_INVALID", what, "upload the file again from the original", file.path)
            )


def _content(files: Sequence[StoredFile], reading: _Reading) -> ModelContent:
    return ModelContent(files, reading.parsed, reading.headers, tuple(reading.issues), reading.chat_template)
