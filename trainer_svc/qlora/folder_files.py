"""Folders that are whole or absent: written beside their place, synced, renamed; with a manifest to check them by."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer_svc.qlora.model_folder import file_sha256

MANIFEST = "manifest.json"


def write_folder(folder: Path, fill: Callable[[Path], None]) -> dict[str, Any]:
    """Has `fill` write the files of `folder`, and puts it in its place only when all of it is on disk.

    An older folder of the same name is replaced. Returns the manifest, which the folder holds too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    fill(building)
    manifest = build_manifest(building)
    write_json(building / MANIFEST, manifest)
    for file in (*_files(building), building):
        _sync(file)
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        building.rename(folder)
        shutil.rmtree(replaced)
    else:
        building.rename(folder)
    _sync(folder.parent)
    return manifest


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
