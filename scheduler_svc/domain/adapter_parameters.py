"""The shape of an adapter: which layers get one, of what rank, and what cannot go together.

The names are those of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.training_options import LayerPattern, LoraInitialization

MAX_RANK = 1024
_WARMUP_FACTOR = 4
_ALLOCATION = "parameters.lora.rank_allocation"


class ModuleGroup(StrEnum):
    """A part of a video-text model."""

    LANGUAGE = "LANGUAGE"
    PROJECTOR = "PROJECTOR"
    VISION = "VISION"


@dataclass(frozen=True, slots=True)
class ShareBounds:
    """Bounds on what a part of the model gets of an adapter's parameters."""

    min: float = 0.0
    max: float = 1.0


@dataclass(frozen=True, slots=True)
class RankAllocation:
    """Ranks that differ by layer after a warm-up."""

    warmup_steps: int
    warmup_rank: int = 0
    """0 before it is resolved."""
    min_rank: int = 0
    calibration_batches: int = 8
    vision_share: ShareBounds | None = None
    projector_share: ShareBounds | None = None
    language_share: ShareBounds | None = None

    @property
    def shares(self) -> dict[ModuleGroup, ShareBounds]:
        """Those that are bounded."""
        named = {
            ModuleGroup.VISION: self.vision_share,
            ModuleGroup.PROJECTOR: self.projector_share,
            ModuleGroup.LANGUAGE: self.language_share,
        }
        return {group: bounds for group, bounds in named.items() if bounds is not None}


@dataclass(frozen=True, slots=True)
class LoraParameters:
    """Shape of the adapter."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_groups: tuple[ModuleGroup, ...] = (ModuleGroup.LANGUAGE,)
    use_rslora: bool = False
    temporal_groups: tuple[ModuleGroup, ...] = ()
    """Of `target_groups`, those whose adapters mix along time."""
    temporal_kernel_size: int = 3
    rank_allocation: RankAllocation | None = None
    """None: `rank` everywhere."""
    use_dora: bool = False
    initialization: LoraInitialization = LoraInitialization.DEFAULT
    layer_patterns: tuple[LayerPattern, ...] = ()
    """Layers with a rank or alpha of their own; the first that fits counts."""

    @property
    def repeats_base(self) -> bool:
        """Whether adapted layers compute the frozen weights' product twice, of inputs as they are and as dropout leaves
        them: peft's DoRA does."""
        return self.use_dora and self.dropout > 0

    @property
    def highest_rank(self) -> int:
        """Of any layer, at any time: no model's layers are at hand to hold patterns against."""
        return max(*self._ranks, self.rank_allocation.warmup_rank if self.rank_allocation else 0)

    @property
    def at_lowest_rank(self) -> Self:
        """The adapter that none takes less than, where ranks differ by pattern."""
        return replace(self, rank=min(self._ranks), layer_patterns=())

    @property
    def _ranks(self) -> tuple[int, ...]:
        return (self.rank, *(each.rank for each in self.layer_patterns if each.rank))


def lora_from_json(value: Mapping[str, Any]) -> LoraParameters:
    """Returns the parameters in plain values; absent ones get a default."""
    lora = dict(value)
    for groups in ("target_groups", "temporal_groups"):
        if groups in lora:
            lora[groups] = tuple(ModuleGroup(group) for group in lora[groups])
    if lora.get("rank_allocation") is not None:
        lora["rank_allocation"] = _rank_allocation(lora["rank_allocation"])
    if "initialization" in lora:
        lora["initialization"] = LoraInitialization(lora["initialization"])
    if "layer_patterns" in lora:
        lora["layer_patterns"] = tuple(LayerPattern(**each) for each in lora["layer_patterns"])
    return LoraParameters(**lora)


def resolve_lora(lora: LoraParameters, max_steps: int) -> LoraParameters:
    """Returns the parameters in force.

    Args:
        max_steps: Steps that the job has; 0 where nobody knows yet.

    Raises:
        InvalidField: two values contradict each other.
    """
    for group in lora.temporal_groups:
        if group not in lora.target_groups:
            raise InvalidField(
                "parameters.lora.temporal_groups",
                f"{group} gets no adapter: add it to lora.target_groups, or leave it out here",
            )
    if not lora.temporal_groups and lora.temporal_kernel_size != LoraParameters().temporal_kernel_size:
        raise InvalidField(
            "parameters.lora.temporal_kernel_size",
            "does nothing without lora.temporal_groups: name the parts that mix along time, or leave it out",
        )
    if lora.rank_allocation is None:
        return lora
    allocation = lora.rank_allocation
    if not allocation.warmup_rank:
        allocation = replace(allocation, warmup_rank=min(_WARMUP_FACTOR * lora.rank, MAX_RANK))
    _check_allocation(allocation, lora, max_steps)
    return replace(lora, rank_allocation=allocation)


def _check_allocation(allocation: RankAllocation, lora: LoraParameters, max_steps: int) -> None:
    if lora.temporal_groups:
        raise InvalidField(_ALLOCATION, "cannot go together with lora.temporal_groups: leave out one of them")
    if allocation.warmup_rank <= lora.rank:
        raise InvalidField(
            f"{_ALLOCATION}.warmup_rank", f"must be more than lora.rank, {lora.rank}: else there is nothing to allocate"
        )
    if allocation.min_rank > lora.rank:
        raise InvalidField(f"{_ALLOCATION}.min_rank", f"must be at most lora.rank, {lora.rank}")
    if max_steps and allocation.warmup_steps >= max_steps:
        raise InvalidField(f"{_ALLOCATION}.warmup_steps", f"must be less than max_steps, {max_steps}")
    for group, bounds in allocation.shares.items():
        field = f"{_ALLOCATION}.{group.value.lower()}_share"
        if group not in lora.target_groups:
            raise InvalidField(field, f"{group} gets no adapter: add it to lora.target_groups, or leave it out here")
        if bounds.min > bounds.max:
            raise InvalidField(field, f"has a min of {bounds.min:g} above its max of {bounds.max:g}")
    if sum(bounds.min for bounds in allocation.shares.values()) > 1:
        raise InvalidField(_ALLOCATION, "has shares whose min add up to more than 1: lower them")
    most = [bounds.max for bounds in allocation.shares.values()]
    if len(most) == len(lora.target_groups) and sum(most) < 1:
        raise InvalidField(
            _ALLOCATION, "has shares whose max add up to less than 1: a part of the parameters is left to nobody"
        )


def fit_allocation(lora: LoraParameters, widths: Mapping[ModuleGroup, int], steps: int) -> None:
    """Holds a rank allocation against model and dataset.

    Args:
        widths: Of each part, the inputs and outputs of the layers that adapters can be trained for, added up: what one
            rank costs there. Empty where nobody knows.
        steps: Steps that the job has.

    Raises:
        InvalidField: the warm-up is as long as the job, or a part's least ranks take more than it may get.
    """
    allocation = lora.rank_allocation
    if allocation is None:
        return
    if allocation.warmup_steps >= steps:
        raise InvalidField(f"{_ALLOCATION}.warmup_steps", f"must be less than the {steps} steps that the job has")
    whole = lora.rank * sum(widths.get(group, 0) for group in lora.target_groups)
    for group, bounds in allocation.shares.items():
        least = allocation.min_rank * widths.get(group, 0)
        if whole and least > bounds.max * whole:
            raise InvalidField(
                f"{_ALLOCATION}.{group.value.lower()}_share",
                f"has a max of {bounds.max:g}, and min_rank alone takes {least / whole:.2g} of the parameters there: "
                "raise max, or lower min_rank",
            )


def _rank_allocation(value: Mapping[str, Any]) -> RankAllocation:
    shares = {
        name: ShareBounds(**value[name])
        for name in ("vision_share", "projector_share", "language_share")
        if value.get(name) is not None
    }
    return RankAllocation(**{**value, **shares})
