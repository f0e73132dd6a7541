"""Everything a run needs to go on as if it had never stopped: adapter, optimizer, random states, place in the data.

Tensors are safetensors and the rest is JSON: a checkpoint never runs code. The learning rate and the order of the
samples are functions of the step, so the step is all there is to keep of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from trainer_svc.qlora.adapter_files import adapter_tensors
from trainer_svc.qlora.checkpoint_folders import KeepRule, read_state, write_checkpoint
from trainer_svc.qlora.held_out_losses import HeldOutLosses
from trainer_svc.qlora.optimizers import placed_state
from trainer_svc.qlora.qlora_injector import trainable
from trainer_svc.qlora.random_states import plain_states, restore_plain_states

_BEST = "best.safetensors"


@dataclass(slots=True)
class TrainState:
    """What a checkpoint is taken of and restored into, in place."""

    model: Any
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    allocation: dict[str, Any] | None = None
    """The report of the rank allocation, once ranks differ by layer."""
    held_out_losses: HeldOutLosses = field(default_factory=HeldOutLosses)
    """What the measurements on the held-out samples came to so far."""
    best: dict[str, torch.Tensor] | None = None
    """The adapter's tensors at the lowest loss; None before, and where nobody will ask for them."""
    owes_measurement: bool = False
    """Whether the measurement that belongs to this step was broken off."""
    measured: dict[str, float] = field(default_factory=dict)
    """The newest loss, and the newest on the held-out samples."""
    decoder: str = ""
    """What decodes the clips that it is trained on."""


def save_checkpoint(
    folder: Path,
    state: TrainState,
    *,
    step: int,
    identity: dict[str, Any],
    keep: KeepRule,
    eval_loss: float | None = None,
    ranks: Sequence[dict[str, Any]] = (),
) -> Path:
    """Writes `folder`/step-NNNNNNNN whole, then deletes what the rule does not keep. `identity` is what must be the
    same for a run to go on from here, `ranks` what `random_states` gave at each rank of several.

    Raises `DiskTroubleError`.
    """
    tensors, scalars = _optimizer_state(state)
    content = {
        "optimizer": scalars,
        "scaler": state.scaler.state_dict(),
        "allocation": state.allocation,
        "evaluations": asdict(state.held_out_losses),
        "owes_evaluation": state.owes_measurement,
        "measured": state.measured,
        "decoder": state.decoder,
        "random": plain_states(),
        "ranks": list(ranks),
    }

    def fill(building: Path) -> None:
        save_file(adapter_tensors(state.model), building / "adapter.safetensors")
        save_file(tensors, building / "optimizer.safetensors")
        save_file(_torch_random_states(), building / "random.safetensors")
        if state.best is not None:
            save_file(state.best, building / _BEST)

    return write_checkpoint(folder, content, fill, step=step, identity=identity, keep=keep, eval_loss=eval_loss)


def load_checkpoint(checkpoint: Path, state: TrainState) -> int:
    """Restores `state` and the random generators; returns the steps done."""
    content = read_state(checkpoint)
    # In place: wrapping the model again would leave the optimizer with tensors that nobody trains.
    set_peft_model_state_dict(state.model, load_file(checkpoint / "adapter.safetensors"))
    _restore_optimizer(state, load_file(checkpoint / "optimizer.safetensors"), content["optimizer"])
    state.scaler.load_state_dict(content["scaler"]) if content["scaler"] else None
    # Checkpoints of versions that kept no such record have none.
    state.held_out_losses = HeldOutLosses(**content.get("evaluations", {}))
    state.owes_measurement = content.get("owes_evaluation", False)
    state.measured = content.get("measured", {})
    state.best = load_file(checkpoint / _BEST) if (checkpoint / _BEST).is_file() else None
    restore_plain_states(content["random"])
    _restore_torch_random_states(load_file(checkpoint / "random.safetensors"))
    return int(content["step"])


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
        placed = placed_state(state.optimizer, parameter, value) if isinstance(value, torch.Tensor) else value
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
