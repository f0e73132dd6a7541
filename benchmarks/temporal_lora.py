"""`temporal_lora`: accuracy on which way a bar moves, against plain LoRA with at least as many parameters.

The base sees each frame by itself and averages (`benchmarks.order_blind`); it is held in NF4. Both adapters get the
same steps, batches and learning rate: temporal of rank 4, plain of rank 5. A plain adapter cannot do better than chance
here, 0.5; the goal is 0.95 for the temporal one against 0.6. `flips_on_reversal` is the share of held-out clips whose
answer changes when they are played backwards. The worse of two seeds counts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from benchmarks.order_blind import OrderBlindModel, draw, quantized, trained_base
from benchmarks.report import Result, print_result
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.frame_index import FrameIndex
from trainer_svc.qlora.temporal_aware_lora import enable

FAMILY = ModelFamily("order_blind", ("model.visual",), (), (), frame_layouts={"vision": "stacked"})
SEEDS = (0, 1)
BASE_STEPS, STEPS, BATCH_SIZE, HELD_OUT = 600, 300, 32, 2048
GOAL = round(0.95 / 0.6, 4)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an adapter learned."""

    parameters: int
    accuracy: float
    flips_on_reversal: float


def main() -> None:
    torch.set_num_threads(1)
    base = trained_base(0, BASE_STEPS)
    temporal = [tune(base, rank=4, temporal=True, seed=seed) for seed in SEEDS]
    plain = [tune(base, rank=5, temporal=False, seed=seed) for seed in SEEDS]
    worst, best = min(one.accuracy for one in temporal), max(one.accuracy for one in plain)
    print_result(
        Result(
            name="temporal_lora",
            ratio=worst / best,
            goal=GOAL,
            higher_is_better=True,
            figures={
                "temporal_accuracy": worst,
                "temporal_flips_on_reversal": min(one.flips_on_reversal for one in temporal),
                "temporal_parameters": temporal[0].parameters,
                "plain_accuracy": best,
                "plain_flips_on_reversal": max(one.flips_on_reversal for one in plain),
                "plain_parameters": plain[0].parameters,
            },
        )
    )


def tune(base: OrderBlindModel, *, rank: int, temporal: bool, seed: int) -> Outcome:
    """Trains an adapter and a new head on `base`, which stays as it is."""
    model = adapted(base, rank=rank, temporal=temporal, seed=seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(100 + seed)
    model.train()
    for _ in range(STEPS):
        clips = draw(BATCH_SIZE, generator, moving=True)
        loss = functional.cross_entropy(model(pixel_values=clips.pixel_values), clips.direction)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    held_out = draw(HELD_OUT, torch.Generator().manual_seed(4242), moving=True)
    with torch.no_grad():
        told = model(pixel_values=held_out.pixel_values).argmax(1)
        reversed_ = model(pixel_values=held_out.pixel_values.flip(1)).argmax(1)
    return Outcome(
        parameters=sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" in name),
        accuracy=float((told == held_out.direction).float().mean()),
        flips_on_reversal=float((told != reversed_).float().mean()),
    )


def adapted(base: OrderBlindModel, *, rank: int, temporal: bool, seed: int) -> Any:
    """`base` in NF4 with an adapter on every linear layer of its blocks, and a head that is trained whole."""
    model = quantized(copy.deepcopy(base))
    torch.manual_seed(seed)
    model.head.reset_parameters()
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=r"model\.visual\..*\.(qkv|proj|fc1|fc2)", modules_to_save=["head"]
    )
    if temporal:
        index = FrameIndex(FAMILY, None)
        index.watch(model)
        enable(config, index, ("vision",))
    return get_peft_model(model, config)


if __name__ == "__main__":
    main()
