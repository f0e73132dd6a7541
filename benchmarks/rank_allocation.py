"""`rank_allocation`: loss after ranks were allocated by layer, against one rank for all with as many parameters.

Two shifts of a task (`benchmarks.shifted_model`), three seeds each. Allocated: 300 steps at rank 8, then scored and cut
to the parameters that rank 1 everywhere has, then 150 steps. Uniform: 450 steps at rank 1 from scratch. The second
control is cut to rank 1 everywhere after the same 300 steps: what the warm-up alone is worth. The ratio is the worst of
the six, allocated to uniform from scratch: below 1, allocation won everywhere. `share_of_language` is how much of the
budget went to the language part.
"""

from __future__ import annotations

import copy
import re
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from benchmarks.report import Result, print_result
from benchmarks.shifted_model import TARGETS, Shift, ThreePartModel, draw, quantized, trained_base
from trainer_svc.qlora.cross_modal_rank_allocator import (
    Components,
    Layer,
    allocate,
    batch_scores,
    components,
    truncated,
)
from trainer_svc.qlora.spec import TargetGroup

SHIFTS: tuple[Shift, ...] = ("vision", "language")
SEEDS = (0, 1, 2)
BASE_STEPS, WARM_UP, AFTER, BATCH_SIZE = 900, 300, 150, 64
WARM_UP_RANK, RANK, CALIBRATION = 8, 1, 8
SCALE = 2.0


def main() -> None:
    torch.set_num_threads(1)
    base = trained_base(0, BASE_STEPS)
    figures: dict[str, float] = {}
    ratios = []
    for shift in SHIFTS:
        outcomes = [compare(base, shift, seed) for seed in SEEDS]
        for name in outcomes[0]:
            figures[f"{shift}_{name}"] = statistics.mean(outcome[name] for outcome in outcomes)
        ratios += [outcome["loss_allocated"] / outcome["loss_uniform_from_scratch"] for outcome in outcomes]
    print_result(Result(name="rank_allocation", ratio=max(ratios), goal=1.0, higher_is_better=False, figures=figures))


def compare(base: ThreePartModel, shift: Shift, seed: int) -> dict[str, float]:
    """Held-out losses of the three ways for one shift and seed."""
    costs = layer_costs(base)
    even = dict.fromkeys(costs, RANK)
    scratch = adapted(base, even, shift, seed)
    tune(scratch, shift, 100 + seed, WARM_UP + AFTER, 2e-3)
    warm = adapted(base, dict.fromkeys(costs, WARM_UP_RANK), shift, seed)
    tune(warm, shift, 100 + seed, WARM_UP, 2e-3)
    parts, scores = scored(warm, shift)
    layers = {name: Layer(group_of(name), costs[name], scores[name]) for name in costs}
    chosen = allocate(layers, RANK * sum(costs.values()), most_rank=WARM_UP_RANK)
    language = sum(costs[name] * rank for name, rank in chosen.items() if group_of(name) == "language")
    return {
        "loss_uniform_from_scratch": held_out_loss(scratch, shift),
        "loss_uniform_truncation": gone_on(base, warm, parts, even, shift, seed),
        "loss_allocated": gone_on(base, warm, parts, chosen, shift, seed),
        "share_of_language": language / sum(costs[name] * rank for name, rank in chosen.items()),
    }


def gone_on(
    base: ThreePartModel, warm: Any, parts: Mapping[str, Components], ranks: Mapping[str, int], shift: Shift, seed: int
) -> float:
    """The loss of `warm` cut to `ranks` and trained on."""
    model = adapted(base, ranks, shift, seed)
    with torch.no_grad():
        model.base_model.model.questions.weight.copy_(warm.base_model.model.questions.weight)
        for name, module in adapters(model).items():
            a, b = truncated(parts[name], ranks[name], SCALE)
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
    tune(model, shift, 500 + seed, AFTER, 1e-3)
    return held_out_loss(model, shift)


def scored(model: Any, shift: Shift) -> tuple[dict[str, Components], dict[str, list[float]]]:
    """Each layer's components, and their scores over a few batches."""
    layers = adapters(model)
    parts = {
        name: components(layer.lora_A["default"].weight, layer.lora_B["default"].weight, SCALE)
        for name, layer in layers.items()
    }
    totals = {name: torch.zeros_like(part.sigma) for name, part in parts.items()}
    generator = torch.Generator().manual_seed(31)
    for _ in range(CALIBRATION):
        picture, question, answer = draw(BATCH_SIZE, generator, shift)
        model.zero_grad()
        functional.cross_entropy(model(picture, question), answer).backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            totals[name] += batch_scores(parts[name], layer.lora_B["default"].weight.grad, SCALE)
    return parts, {name: total.tolist() for name, total in totals.items()}


def adapted(base: ThreePartModel, ranks: Mapping[str, int], shift: Shift, seed: int) -> Any:
    """`base` in NF4 with adapters of those ranks; new words are learned with them."""
    torch.manual_seed(seed)
    kept = {name: rank for name, rank in ranks.items() if rank}
    config = LoraConfig(
        r=RANK,
        lora_alpha=SCALE * RANK,
        target_modules="|".join(re.escape(name) for name in kept),
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in kept.items()},
        alpha_pattern={f"^{re.escape(name)}": SCALE * rank for name, rank in kept.items()},
    )
    model = get_peft_model(quantized(copy.deepcopy(base)), config)
    model.base_model.model.questions.weight.requires_grad_(shift == "language")
    return model


def tune(model: Any, shift: Shift, seed: int, steps: int, rate: float) -> None:
    """Trains what is trainable along half a cosine."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        picture, question, answer = draw(BATCH_SIZE, generator, shift)
        loss = functional.cross_entropy(model(picture, question), answer)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()


def held_out_loss(model: Any, shift: Shift) -> float:
    """Mean cross entropy of 4,096 pictures that no run has seen."""
    picture, question, answer = draw(4096, torch.Generator().manual_seed(4242), shift)
    with torch.no_grad():
        return float(functional.cross_entropy(model(picture, question), answer))


def adapters(model: Any) -> dict[str, Any]:
    """The adapted layers by name."""
    return {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}


def layer_costs(base: ThreePartModel) -> dict[str, int]:
    """Parameters that one rank of each target costs."""
    return {
        name: module.in_features + module.out_features
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(TARGETS, name)
    }


def group_of(name: str) -> TargetGroup:
    """The part that a layer belongs to."""
    if name.startswith("visual"):
        return "vision"
    return "projector" if name == "projector" else "language"


if __name__ == "__main__":
    main()
