"""Holds a merged model against base and adapter: what each says at every token of the reference answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError, BadDataError
from trainer_svc.qlora.loss import predicted
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.spec import TrainingSpec

_MOST_TOKENS = 128
"""Of one row."""


@dataclass(frozen=True, slots=True)
class SaidTokens:
    """What a model says at the tokens of one row's answers."""

    logits: Tensor
    """fp32 (N, vocabulary), on the CPU."""
    targets: Tensor
    """int64 (N): the reference's tokens."""


@dataclass(frozen=True, slots=True)
class LogitComparison:
    """Sums over tokens of one row, or means over all."""

    tokens: int
    adapter_difference: float
    """Largest difference of a logit to the adapter's."""
    base_difference: float
    adapter_agreement: float
    """Where both find the same token likeliest: 1, else 0."""
    base_agreement: float
    adapter_loss: float
    merged_loss: float

    @classmethod
    def over(cls, rows: Sequence[LogitComparison]) -> LogitComparison:
        """Means over all tokens of all rows."""
        tokens = sum(row.tokens for row in rows)

        def mean(name: str) -> float:
            return float(sum(getattr(row, name) for row in rows) / tokens)

        return cls(
            tokens,
            adapter_difference=mean("adapter_difference"),
            base_difference=mean("base_difference"),
            adapter_agreement=mean("adapter_agreement"),
            base_agreement=mean("base_agreement"),
            adapter_loss=mean("adapter_loss"),
            merged_loss=mean("merged_loss"),
        )


class LogitFiles:
    """What base and adapter said, on disk: with a large vocabulary it would not fit into memory beside a model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, row: int, base: SaidTokens, adapter: SaidTokens) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {"base": base.logits, "adapter": adapter.logits, "targets": base.targets}
        save_file(tensors, self._folder / f"{row}.safetensors")

    def read(self, row: int) -> tuple[SaidTokens, SaidTokens]:
        """(the base model's, the adapter's)."""
        tensors = load_file(self._folder / f"{row}.safetensors")
        return SaidTokens(tensors["base"], tensors["targets"]), SaidTokens(tensors["adapter"], tensors["targets"])

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def token_logits(model: Any, base: BaseModel, sample: Sample, pool: DecodePool, spec: TrainingSpec) -> SaidTokens:
    """What the model says at the learned tokens of a row, the first 128 of them. Raises `BadDataError`."""
    processor = DataProcessor(base.processor, max_tokens=spec.max_tokens or base.max_positions)
    try:
        frames = [pool.decode(clip.path, clip.frame_request(spec.sampling)).result() for clip in sample.clips]
    except BadClipError as error:
        raise BadDataError(f"sample {sample.sample_id}: {error}", "replace the clip or remove its rows") from error
    batch = processor.collate([processor.encode(sample, frames)])
    with torch.no_grad():
        logits, targets = predicted(model, batch, base.device, most=_MOST_TOKENS)
    return SaidTokens(logits[0].cpu().contiguous(), targets[0].cpu())


def compare(base: SaidTokens, adapter: SaidTokens, merged: SaidTokens) -> LogitComparison:
    """Sums over the tokens of one row."""
    likeliest = merged.logits.argmax(dim=1)
    return LogitComparison(
        tokens=len(merged.targets),
        adapter_difference=float((merged.logits - adapter.logits).abs().amax(dim=1).sum()),
        base_difference=float((merged.logits - base.logits).abs().amax(dim=1).sum()),
        adapter_agreement=float((likeliest == adapter.logits.argmax(dim=1)).sum()),
        base_agreement=float((likeliest == base.logits.argmax(dim=1)).sum()),
        adapter_loss=_loss(adapter),
        merged_loss=_loss(merged),
    )


def _loss(said: SaidTokens) -> float:
    return float(torch.nn.functional.cross_entropy(said.logits, said.targets, reduction="sum"))
