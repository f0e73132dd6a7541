"""Folders that are whole or absent: written beside their place, synced, renamed; with a manifest to check them by."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer_svc.qlora.errors import DiskTroubleError
from trainer_svc.qlora.model_folder import file_sha256

MANIFEST = "manifest.json"
_REPLACED = ".replaced"
_DISK_TROUBLES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
# How safetensors, which writes by itself, passes the system's word on.
_FOREIGN_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_folder(folder: Path, fill: Callable[[Path], None]) -> dict[str, Any]:
    """Has `fill` write the files of `folder`, and puts it in its place only when all of it is on disk.

    An older folder of the same name is replaced. Returns the manifest, which the folder holds too.

    Raises `DiskTroubleError` when the disk is full or does not work.
    """
    building = folder.with_name(f".{folder.name}.building")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        fill(building)
        manifest = build_manifest(building)
        write_json(building / MANIFEST, manifest)
        for file in (*_files(building), building):
            _sync(file)
        _put_in_place(building, folder)
    except Exception as error:
        words = disk_trouble(error)
        if not words:
            raise
        shutil.rmtree(building, ignore_errors=True)
        raise DiskTroubleError(f"{folder.name} could not be written: {words}") from error
    return manifest


def disk_trouble(error: Exception) -> str:
    """The system's words for a disk that is full or does not work; empty for an error of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _FOREIGN_OS_ERROR.search(str(error))):
        number = int(found[1])
    return os.strerror(number).lower() if number in _DISK_TROUBLES else ""


def _put_in_place(building: Path, folder: Path) -> None:
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}{_REPLACED}")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        building.rename(folder)
        shutil.rmtree(replaced)
    else:
        building.rename(folder)
    _sync(folder.parent)


def undo_broken_replacements(parent: Path, prefix: str) -> None:
    """Puts back the folders of `prefix` in `parent` whose replacement a death broke off before the new one was in its
    place, and deletes those that had been replaced. For who reads them first, while nobody writes."""
    for replaced in sorted(parent.glob(f".{prefix}*{_REPLACED}")):
        folder = parent / replaced.name.removeprefix(".").removesuffix(_REPLACED)
        if folder.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(folder)
            _sync(parent)


def build_manifest(folder: Path) -> dict[str, Any]:
    """`{"files": [{"path", "size", "sha256"}]}` of every file but the manifest itself, sorted by path."""
    return {
        "files": [
            {
                "path": file.relative_to(folder).as_posix(),
                "size": file.stat().st_size,
                "sha256": file_sha256(file),
            }
            for file in _files(folder)
            if file.name != MANIFEST
        ]
    }


def is_whole(folder: Path) -> bool:
    """Whether the folder holds exactly what its manifest says, bit for bit."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return bool(manifest == build_manifest(folder))
    except (OSError, ValueError):
        return False


def write_json(file: Path, value: Any) -> None:
    """Readable JSON with sorted keys."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
