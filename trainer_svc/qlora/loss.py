"""The loss of one batch: cross entropy of the assistant's tokens, summed, so that steps weigh every token alike."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from trainer_svc.qlora.data_processor import IGNORED, Batch, on_device


def summed_loss(model: Any, batch: Batch, device: torch.device) -> Tensor:
    """Sum over learned tokens of -log p(token), fp32 scalar with gradient.

    Logits are computed only where a learned token follows: with a vocabulary of 150,000 the others would take more
    memory than all activations of the language model together.
    """
    logits, targets = predicted(model, batch, device)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def losses_by_sample(model: Any, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """(what `summed_loss` gives, the mean of a learned token of each sample: fp32 (B,)), by one forward pass."""
    logits, targets = predicted(model, batch, device)
    by_token = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    summed = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return summed, by_token.sum(dim=1) / (targets != IGNORED).sum(dim=1)


def predicted(model: Any, batch: Batch, device: torch.device, *, most: int | None = None) -> tuple[Tensor, Tensor]:
    """(fp32 logits (B, P, V), int64 targets (B, P)) at the P places that a learned token of some sample follows; at the
    first `most` of them."""
    labels = batch.labels.to(device)
    inputs = on_device(batch.inputs, device)
    positions = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)[:most]
    if _takes_positions(model):
        logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, positions]
    return logits.float(), labels[:, positions + 1]


def _takes_positions(model: Any) -> bool:
    """Whether logits can be asked for at some places only."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters
