"""Holds the base model of the last job for the next one that has the same, as good as new or not at all."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import random
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from trainer_svc.qlora.model_folder import fingerprint
from trainer_svc.qlora.model_loader import BaseModel, load_base_model
from trainer_svc.qlora.model_snapshot import ModelSnapshot
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.spec import QuantizationSpec

_TORCH_SEED = 67280421310721
"""What a process of torch's begins with."""
_ROOM = 1.02


@dataclass(frozen=True, slots=True)
class _Kept:
    base: BaseModel
    snapshot: ModelSnapshot
    files: list[tuple[object, ...]]
    device_bytes: int


class BaseKeeper:
    """The base models of a process that trains one job after the other."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None
        self._threads = torch.get_num_threads()

    def _begin(self) -> None:
        """Makes of the process what a new one would be."""
        torch.manual_seed(_TORCH_SEED)
        random.seed()
        np.random.seed()
        torch.set_num_threads(self._threads)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        # The kernel's record of the most memory that the process has had begins anew.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def load(self, folder: Path, quantization: QuantizationSpec) -> BaseModel:
        """As `load_base_model`, in a process as good as new; of the model that is held, only the processor is loaded
        again."""
        self._begin()
        kept, self._kept = self._kept, None
        if kept is not None and kept.base.quantization == quantization and _is_same(kept, folder):
            self._kept = kept
            return replace(kept.base, processor=load_processor(folder))
        del kept
        _free()
        base = load_base_model(folder, quantization)
        self._kept = _Kept(base, ModelSnapshot(base.model), _files(folder), _device_bytes())
        return base

    def is_clean(self) -> bool:
        """Takes everything of the last job out of the model and the process. False when something of it stays: then the
        process must not be used again."""
        if self._kept is None or not self._kept.snapshot.restore():
            return False
        _free()
        helpers = [thread for thread in threading.enumerate() if thread.name.startswith(("decode-", "batches"))]
        if helpers or multiprocessing.active_children():
            return False
        return _device_bytes() <= self._kept.device_bytes * _ROOM


def _is_same(kept: _Kept, folder: Path) -> bool:
    # Files of the trainer's cache are links to the same content; others are read to be sure.
    return kept.files == _files(folder) or kept.base.fingerprint == fingerprint(folder)


def _files(folder: Path) -> list[tuple[object, ...]]:
    found = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    states = [file.stat() for file in found]
    return [
        (file.name, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        for file, state in zip(found, states, strict=True)
    ]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
