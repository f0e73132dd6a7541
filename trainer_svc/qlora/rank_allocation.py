"""The step of a run at which its adapter gets ranks that differ by layer: score, allocate, truncate, go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from trainer_svc.qlora.checkpoint import TrainState
from trainer_svc.qlora.cross_modal_rank_allocator import (
    BudgetTooSmallError,
    Components,
    Layer,
    Share,
    ShareTooSmallError,
    allocate,
    batch_scores,
    components,
    truncated,
    truncation_error,
)
from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.optimizers import make_optimizer
from trainer_svc.qlora.qlora_injector import inject, trainable
from trainer_svc.qlora.spec import SpecError, TrainingSpec

Report = dict[str, Any]
"""What was decided and why, ready for JSON: see `docs/training.md`."""
_PREFIX = "base_model.model."


def allocate_ranks(
    base: BaseModel, spec: TrainingSpec, state: TrainState, batches: Iterable[Batch], backward: Callable[[Batch], None]
) -> Report:
    """Gives `state` an adapter of the same update, cut to the ranks that do most good, and a fresh optimizer: the old
    one's moments belong to directions that are no more.

    Args:
        batches: What layers are scored by.
        backward: Adds the gradients of a batch's mean loss to those of the adapter.
    """
    layers = _adapted_layers(state.model)
    parts = {name: components(layer.a, layer.b, layer.scale) for name, layer in layers.items()}
    scores = _scores(state.model, layers, parts, batches, backward)
    costs = {name: layer.a.shape[1] + layer.b.shape[0] for name, layer in layers.items()}
    offers = {
        name: Layer(base.family.group_of(name) or "language", costs[name], scores[name].tolist()) for name in layers
    }
    ranks = _ranks(spec, offers)
    report = _report(spec, offers, parts, ranks)
    weights = {name: truncated(parts[name], rank, spec.lora.scale) for name, rank in ranks.items() if rank}
    rebuild(base, spec, state, report)
    with torch.no_grad():
        for name, layer in _adapted_layers(state.model).items():
            a, b = weights[name]
            layer.a.copy_(a)
            layer.b.copy_(b)
    return report


def check_least_ranks(model: Any, family: ModelFamily, spec: TrainingSpec) -> None:
    """Raises `SpecError` before the warm-up for what `allocate_ranks` would raise after it."""
    if not spec.lora.rank_allocation.warmup_steps:
        return
    least = [0.0] * max(1, spec.lora.rank_allocation.min_rank)
    _ranks(
        spec,
        {
            name: Layer(family.group_of(name) or "language", layer.a.shape[1] + layer.b.shape[0], least)
            for name, layer in _adapted_layers(model).items()
        },
    )


def rebuild(base: BaseModel, spec: TrainingSpec, state: TrainState, report: Report) -> None:
    """Gives `state` a new adapter of the ranks in `report`, and a fresh optimizer."""
    state.model.unload()
    wanted = spec.optimization
    ranks = {layer["name"]: layer["rank"] for layer in report["layers"]}
    state.model, _ = inject(
        base, spec.lora, seed=wanted.seed, gradient_checkpointing=wanted.gradient_checkpointing, ranks=ranks
    )
    state.optimizer = make_optimizer(trainable(state.model).values(), wanted)
    state.allocation = report


class _AdaptedLayer:
    """A, B and scale of one layer."""

    def __init__(self, module: Any) -> None:
        self.a: torch.nn.Parameter = module.lora_A["default"].weight
        self.b: torch.nn.Parameter = module.lora_B["default"].weight
        self.scale: float = module.scaling["default"]


def _adapted_layers(model: Any) -> dict[str, _AdaptedLayer]:
    return {
        name.removeprefix(_PREFIX): _AdaptedLayer(module)
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def _scores(
    model: Any,
    layers: Mapping[str, _AdaptedLayer],
    parts: Mapping[str, Components],
    batches: Iterable[Batch],
    backward: Callable[[Batch], None],
) -> dict[str, torch.Tensor]:
    totals = {name: torch.zeros_like(part.sigma) for name, part in parts.items()}
    count = 0
    model.train()  # or activations would not be recomputed, and not fit
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    try:
        for batch in batches:
            model.zero_grad(set_to_none=True)
            backward(batch)
            count += 1
            for name, layer in layers.items():
                # A batch of texts alone says nothing about the vision tower: 0.
                if layer.b.grad is not None:
                    totals[name] += batch_scores(parts[name], layer.b.grad, layer.scale)
    finally:
        model.zero_grad(set_to_none=True)
        model.train()
    return {name: total / count for name, total in totals.items()}


def _ranks(spec: TrainingSpec, layers: Mapping[str, Layer]) -> dict[str, int]:
    wanted = spec.lora.rank_allocation
    try:
        return allocate(
            layers,
            spec.lora.rank * sum(layer.cost for layer in layers.values()),
            least_rank=wanted.min_rank,
            most_rank=spec.lora.first_rank,
            shares={share.group: Share(share.min_share, share.max_share) for share in wanted.shares},
        )
    except BudgetTooSmallError as error:
        raise SpecError("lora.rank_allocation.min_rank", str(error), "lower it, or raise lora.rank") from error
    except ShareTooSmallError as error:
        raise SpecError(
            "lora.rank_allocation.shares", str(error), f"lower min_rank, or raise max_share of {error.group}"
        ) from error


def _report(
    spec: TrainingSpec, layers: Mapping[str, Layer], parts: Mapping[str, Components], ranks: Mapping[str, int]
) -> Report:
    spent = {name: layer.cost * ranks[name] for name, layer in layers.items()}
    whole, budget = sum(spent.values()), spec.lora.rank * sum(layer.cost for layer in layers.values())
    by_group = {
        group: sum(spent[name] for name, layer in layers.items() if layer.group == group)
        for group in sorted({layer.group for layer in layers.values()})
    }
    return {
        "budget_parameters": budget,
        "spent_parameters": whole,
        "shares": {group: parameters / max(1, whole) for group, parameters in by_group.items()},
        "budget_shares": {group: parameters / budget for group, parameters in by_group.items()},
        "scale": spec.lora.scale,
        "layers": [
            {
                "name": name,
                "group": layer.group,
                "rank": ranks[name],
                "parameters_per_rank": layer.cost,
                "truncation_error": truncation_error(parts[name], ranks[name]),
                "scores": [float(score) for score in layer.scores],
            }
            for name, layer in sorted(layers.items())
        ],
    }
