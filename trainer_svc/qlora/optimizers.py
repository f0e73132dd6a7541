"""The optimizer, and its learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer_svc.qlora.spec import OptimizationSpec


def make_optimizer(parameters: Iterable[nn.Parameter], spec: OptimizationSpec) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), or the same with 8-bit moments (arXiv 2110.02861)."""
    chosen = list(parameters)
    if spec.optimizer == "adamw_8bit":
        import bitsandbytes as bnb

        optimizer: torch.optim.Optimizer = bnb.optim.AdamW8bit(
            chosen, lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        return optimizer
    return torch.optim.AdamW(chosen, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def learning_rate_at(step: int, total_steps: int, spec: OptimizationSpec) -> float:
    """The rate of step number `step` (from 0): a linear rise, then the schedule down to 0 after the last step."""
    warmup = math.ceil(spec.warmup_ratio * total_steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.learning_rate
    done = (step - warmup) / max(1, total_steps - warmup)
    factor = 1.0 - done if spec.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return spec.learning_rate * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets it for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
