"""Puts LoRA adapters into a frozen 4-bit model: explicit targets, nothing cast that need not be.

peft's `prepare_model_for_kbit_training` is not used: it casts the unquantised vision tower, embeddings and head to
fp32, and with its default, reentrant checkpointing, every gradient of the vision tower's adapters is lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from trainer_svc.qlora import layer_patterns, temporal_aware_lora
from trainer_svc.qlora.errors import GradientAuditError
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.frame_index import FrameIndex
from trainer_svc.qlora.frozen_encoder import recompute_language_only
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.packed_dropout import draw_packed
from trainer_svc.qlora.spec import LoraSpec, SpecError, TargetGroup


@dataclass(frozen=True, slots=True)
class TrainableReport:
    """What is trained."""

    parameters: int
    layers: dict[str, int]
    """Adapted linear layers by part of the model."""


def inject(
    base: BaseModel,
    lora: LoraSpec,
    *,
    seed: int,
    gradient_checkpointing: bool,
    ranks: Mapping[str, int] | None = None,
) -> tuple[Any, TrainableReport]:
    """(the peft model, what is trained in it). Adapters are fp32, and change nothing before the first step.

    `ranks`: of each layer by its name, where they differ; 0 for none. Their scale is that of `lora.scale`.

    Raises `SpecError` when a target group has no linear layers in this model, or no frames that could be told apart.
    """
    prepare(base.model, gradient_checkpointing=gradient_checkpointing)
    config = LoraConfig(
        r=lora.first_rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=target_pattern(base.model, base.family, lora.target_groups),
        task_type="CAUSAL_LM",
    )
    layer_patterns.apply(config, lora, (name for name, _ in base.model.named_modules()))
    if ranks is not None:
        _set_ranks(config, lora, {name: rank for name, rank in ranks.items() if rank})
    if lora.temporal_groups:
        temporal_aware_lora.check_offered(lora, base.family)
        index = FrameIndex(base.family, base.model.config)
        index.watch(base.model)
        temporal_aware_lora.enable(config, index, lora.temporal_groups, lora.temporal_kernel_size)
    torch.manual_seed(seed)
    model = get_peft_model(base.model, config)
    draw_packed(model)
    recompute_language_only(base)
    return model, _report(model, base.family)


def prepare(model: Any, *, gradient_checkpointing: bool) -> None:
    """Freezes every weight; turns on non-reentrant checkpointing if asked."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.config.use_cache = False
    if gradient_checkpointing:
        # Reentrant checkpointing drops gradients of every layer whose input needs none, as in a frozen model.
        model.activation_checkpointing_enable({"use_reentrant": False})
    elif model.is_activation_checkpointing:
        # A base that is kept from one job to the next has it from the one before.
        model.activation_checkpointing_disable()


def target_pattern(model: nn.Module, family: ModelFamily, groups: Iterable[TargetGroup]) -> str:
    """A regular expression that matches exactly the linear layers of `groups`, by full module name."""
    alternatives = []
    for group in groups:
        members = {name: module for name, module in model.named_modules() if family.group_of(name) == group}
        linears = {name for name, module in members.items() if isinstance(module, nn.Linear)}
        if not linears:
            raise SpecError(
                "lora.target_groups", f"this model has no linear layer in its {group} part", f"drop {group}"
            )
        alternatives.append(_group_pattern(getattr(family, group), linears, set(dict(model.named_modules())) - linears))
    return "|".join(alternatives)


def _set_ranks(config: LoraConfig, lora: LoraSpec, ranks: Mapping[str, int]) -> None:
    config.target_modules = "|".join(re.escape(name) for name in sorted(ranks))
    # peft matches patterns at the end of a name, unless they say where the name begins.
    config.rank_pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
    config.alpha_pattern = {
        f"^{re.escape(name)}": lora.scale * (math.sqrt(rank) if lora.use_rslora else rank)
        for name, rank in ranks.items()
    }


def check_gradients(model: nn.Module, *, overflows: bool = False) -> None:
    """After the first backward: every trainable tensor has a gradient, and a finite one unless fp16 `overflows` while
    its scale is being found. Zeros are right for A at step 0."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            raise GradientAuditError(f"{name} got no gradient: it is cut off from the loss and would never train")
        if not overflows and not torch.isfinite(parameter.grad).all():
            raise GradientAuditError(f"{name} got a gradient that is not finite")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained tensors by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _group_pattern(prefixes: tuple[str, ...], linears: set[str], others: set[str]) -> str:
    leaves = "|".join(sorted({re.escape(name.rpartition(".")[2]) for name in linears}))
    roots = "|".join(re.escape(prefix) for prefix in prefixes)
    pattern = rf"(?:{roots})\.(?:.+\.)?(?:{leaves})"
    # The same leaf name can be a convolution (patch_embed.proj) or, in the vision tower, belong to the projector.
    strangers = sorted(name for name in others if re.fullmatch(pattern, name))
    if not strangers:
        return pattern
    return rf"(?!(?:{'|'.join(re.escape(name) for name in strangers)})$){pattern}"


def _report(model: nn.Module, family: ModelFamily) -> TrainableReport:
    layers: dict[str, int] = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            group = family.group_of(name.removeprefix("base_model.model.")) or "head"
            layers[group] = layers.get(group, 0) + 1
    return TrainableReport(sum(parameter.numel() for parameter in trainable(model).values()), layers)
