"""Everything a run needs to go on as if it had never stopped: adapter, optimizer, random states, place in the data.

Tensors are safetensors and the rest is JSON: a checkpoint never runs code. The learning rate and the order of the
samples are functions of the step, so the step is all there is to keep of them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from trainer_svc.qlora.adapter_files import adapter_tensors
from trainer_svc.qlora.errors import CheckpointMismatchError
from trainer_svc.qlora.folder_files import is_whole, write_folder, write_json
from trainer_svc.qlora.qlora_injector import trainable

_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a checkpoint is taken of and restored into, in place."""

    model: Any
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(folder: Path, state: TrainState, *, step: int, identity: dict[str, Any], keep: int) -> Path:
    """Writes `folder`/step-NNNNNNNN whole, then deletes all but the newest `keep`. `identity` is what must be the
    same for a run to go on from here."""
    target = folder / f"{_PREFIX}{step:08d}"

    def fill(building: Path) -> None:
        tensors, scalars = _optimizer_state(state)
        save_file(adapter_tensors(state.model), building / "adapter.safetensors")
        save_file(tensors, building / "optimizer.safetensors")
        save_file(_torch_random_states(), building / "random.safetensors")
        content = {
            "step": step,
            "identity": identity,
            "optimizer": scalars,
            "scaler": state.scaler.state_dict(),
            "random": {"python": random.getstate(), "numpy": _numpy_random_state()},
        }
        write_json(building / "state.json", content)

    write_folder(target, fill)
    for _, old in list(_numbered(folder))[keep:]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Path | None, list[Path]]:
    """(the newest whole checkpoint, newer ones that are damaged). Raises `CheckpointMismatchError` when it belongs
    to another run."""
    damaged = []
    for _, candidate in _numbered(folder):
        if not is_whole(candidate):
            damaged.append(candidate)
            continue
        saved = json.loads((candidate / "state.json").read_bytes())["identity"]
        if saved != identity:
            changed = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
            raise CheckpointMismatchError(f"{candidate} was saved by a run with another {', '.join(changed)}")
        return candidate, damaged
    return None, damaged


def load_checkpoint(checkpoint: Path, state: TrainState) -> int:
    """Restores `state` and the random generators; returns the steps done."""
    content = json.loads((checkpoint / "state.json").read_bytes())
    # In place: wrapping the model again would leave the optimizer with tensors that nobody trains.
    set_peft_model_state_dict(state.model, load_file(checkpoint / "adapter.safetensors"))
    _restore_optimizer(state, load_file(checkpoint / "optimizer.safetensors"), content["optimizer"])
    state.scaler.load_state_dict(content["scaler"]) if content["scaler"] else None
    python = content["random"]["python"]
    random.setstate((python[0], tuple(python[1]), python[2]))
    name, keys, *rest = content["random"]["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    _restore_torch_random_states(load_file(checkpoint / "random.safetensors"))
    return int(content["step"])


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Checkpoints by name, newest first."""
    found = [
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in folder.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
    ]
    yield from sorted(found, reverse=True)


def _optimizer_state(state: TrainState) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's tensors and numbers, as `parameter name::key`."""
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter in trainable(state.model).items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}::{key}"] = value.detach().cpu().contiguous().clone()
            else:
                scalars[f"{name}::{key}"] = value
    return tensors, scalars


def _restore_optimizer(state: TrainState, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> None:
    parameters = trainable(state.model)
    for label, value in {**tensors, **scalars}.items():
        name, _, key = label.rpartition("::")
        parameter = parameters[name]
        # torch keeps the step counter where the optimizer's kernel wants it: beside the others when fused.
        placed = value.to(parameter.device) if isinstance(value, torch.Tensor) else value
        state.optimizer.state[parameter][key] = placed


def _torch_random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_torch_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda{index}"], index)


def _numpy_random_state() -> list[Any]:
    name, keys, *rest = np.random.get_state()
    return [name, [int(key) for key in keys], *rest]
