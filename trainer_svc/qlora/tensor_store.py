"""A bounded folder of tensors under keys that name their content. Several processes may share it.

Each entry is one safetensors file, written aside and renamed, mapped into memory when read, and checked against the
digest that it carries: whatever a crash, a full disk or a flipped bit leaves behind is found out and made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_SUFFIX = ".safetensors"
_UNFINISHED = ".unfinished"
_ABANDONED_SECONDS = 3600.0
_BLOCK = 4096
"""Files take whole blocks of a disk."""
_RESERVE_BYTES = 2 << 30
"""Left free on the disk for what must be written: checkpoints and adapters."""
_FULL_SECONDS = 60.0
"""How long a full folder is taken for full without another look."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under one key."""

    tensors: dict[str, torch.Tensor]
    """On the CPU, mapped from the file: not to be written to."""
    facts: dict[str, Any]
    """JSON."""


class TensorStore:
    """One process's view of the folder. May be used from several threads.

    What this process has used is not put out to make room for more of its own: a data set that does not fit would
    otherwise, read in turn, push out each entry just before it is needed again.
    """

    def __init__(self, folder: Path, max_bytes: int, warn: Callable[[str], None]) -> None:
        """`warn` is told of damaged entries, and once when the disk takes no more."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._warn = warn
        self._used: set[str] = set()
        self._held_bytes = 0
        self._full_until = 0.0
        self._guard = threading.Lock()
        self._broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held_bytes = sum(size for _, size, _ in self._scan())
        except OSError as error:
            self._give_up(error)

    def has(self, key: str) -> bool:
        """Whether there is an entry, sound or not."""
        return self._path(key).is_file()

    def get(self, key: str) -> Entry | None:
        """The entry; None when there is none, or none that is sound: it is deleted then, and told."""
        path = self._path(key)
        try:
            entry = _read(path)
            if key not in self._used:
                os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            self._warn(f"the cached file {path.name} is damaged and made anew: {error}")
            path.unlink(missing_ok=True)
            return None
        self._used.add(key)
        return entry

    def put(self, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> bool:
        """Keeps it, unless that takes more than there is room for. Returns whether it was kept."""
        if self._broken:
            return False
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        size = sum(value.nbytes for value in plain.values())
        size += -size % _BLOCK + _BLOCK
        with self._guard:
            try:
                if not self._make_room(size):
                    return False
                _write(self._path(key), plain, json.dumps(dict(facts), sort_keys=True))
            except (OSError, SafetensorError) as error:
                self._give_up(error)
                return False
            self._used.add(key)
            self._held_bytes += size
        return True

    def _make_room(self, size: int) -> bool:
        if shutil.disk_usage(self._folder).free - size < _RESERVE_BYTES:
            return False
        if self._held_bytes + size <= self._max_bytes:
            return True
        if time.monotonic() < self._full_until:
            return False
        # Other processes have added and deleted as well.
        entries = sorted(self._scan(), key=lambda entry: entry[2])
        self._held_bytes = sum(held for _, held, _ in entries)
        for path, held, _ in entries:
            if self._held_bytes + size <= self._max_bytes:
                return True
            if path.name.removesuffix(_SUFFIX) not in self._used:
                path.unlink(missing_ok=True)
                self._held_bytes -= held
        if self._held_bytes + size <= self._max_bytes:
            return True
        self._full_until = time.monotonic() + _FULL_SECONDS
        return False

    def _scan(self) -> Iterator[tuple[Path, int, float]]:
        """(file, bytes on disk, when it was last used) of every entry; deletes what dead processes left unfinished."""
        for shelf in self._folder.iterdir():
            for path in shelf.iterdir() if shelf.is_dir() else ():
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue
                if path.suffix == _SUFFIX:
                    yield path, facts.st_size + -facts.st_size % _BLOCK, facts.st_mtime
                elif time.time() - facts.st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        self._warn(f"nothing more is cached, the disk does not take it: {error}")


def _write(path: Path, tensors: dict[str, torch.Tensor], facts: str) -> None:
    path.parent.mkdir(exist_ok=True)
    building = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        # No fsync: a file that a power cut leaves half written fails its digest.
        save_file(tensors, building, metadata={"facts": facts, "digest": _digest(tensors, facts)})
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)


def _read(path: Path) -> Entry:
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    if metadata["digest"] != _digest(tensors, metadata["facts"]):
        raise ValueError("its content does not have the digest that it was written with")
    return Entry(tensors, json.loads(metadata["facts"]))


def _digest(tensors: Mapping[str, torch.Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
