"""The optimizer, and its learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer_svc.qlora.spec import OptimizationSpec, SpecError

_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "lion_8bit": "Lion8bit",
    "paged_adamw": "PagedAdamW",
    "paged_adamw_8bit": "PagedAdamW8bit",
}


def make_optimizer(parameters: Iterable[nn.Parameter], spec: OptimizationSpec) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), the same with 8-bit moments (arXiv 2110.02861) or paged, or Lion (arXiv 2302.06675).

    Raises `SpecError` for a paged one where there is nothing to page from: bitsandbytes would make it an ordinary one.
    """
    chosen = list(parameters)
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(chosen, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
    if spec.optimizer.startswith("paged_") and any(parameter.device.type != "cuda" for parameter in chosen):
        raise SpecError(
            "optimization.optimizer",
            f"{spec.optimizer} needs a CUDA device, and this machine trains on its {chosen[0].device.type.upper()}",
            f"use {spec.optimizer.removeprefix('paged_')}, or a device that has CUDA",
        )
    import bitsandbytes as bnb

    kind = getattr(bnb.optim, _BITSANDBYTES[spec.optimizer])
    optimizer: torch.optim.Optimizer = kind(chosen, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return optimizer


def placed_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A restored tensor of the optimizer's state where its kernels want it: in memory that is paged, if it pages."""
    make_buffer = getattr(optimizer, "get_state_buffer", None)
    if make_buffer is None or value.shape != parameter.shape:
        # torch keeps the step counter where the optimizer's kernel wants it: beside the others when fused.
        return value.to(parameter.device)
    buffer: torch.Tensor = make_buffer(parameter, dtype=value.dtype)
    return buffer.copy_(value)


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


def unscale(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Divides the gradients by the loss scale, also where no loss was scaled: a rank may have no sample of a step."""
    if scaler.is_enabled():
        scaler.scale(torch.zeros((), device=device))
    scaler.unscale_(optimizer)
