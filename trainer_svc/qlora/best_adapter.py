"""Keeps the adapter that does best on the held-out samples, where it is to be published."""

from __future__ import annotations

from trainer_svc.qlora.adapter_files import adapter_tensors
from trainer_svc.qlora.checkpoint import TrainState
from trainer_svc.qlora.spec import TrainingSpec


def note_held_out_loss(state: TrainState, spec: TrainingSpec, step: int, loss: float, *, keeps: bool) -> None:
    """Takes a measurement into account. `keeps`: whether this process is the one that will write the adapter."""
    if spec.lora.rank_allocation.warmup_steps and state.allocation is None:
        # The warm-up's adapter is not what was asked for, however well it does.
        return
    is_best = state.held_out_losses.note(step, loss, spec.early_stopping.min_delta)
    if is_best and spec.restore_best and keeps:
        state.best = adapter_tensors(state.model)
