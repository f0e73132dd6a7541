"""Options of a training specification beyond its core, and what cannot go together. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trainer_svc.qlora.spec import LoraSpec, TrainingSpec

LoraInitialization = Literal[
    "default", "eva", "loftq", "pissa", "olora", "orthogonal", "mica", "kasa", "monteclora", "corda", "lora_ga"
]
Placement = Literal["even", "segment_jitter"]
Problem = tuple[str, str, str]
"""The field, what is wrong with it, and what to do."""

REFUSED_INITIALIZATIONS: dict[str, tuple[str, str]] = {
    "pissa": ("PiSSA fails on 4-bit weights", "use loftq, which also begins from the base model's own weights"),
    "olora": ("OLoRA changes what a 4-bit model answers before the first step", "use default, or eva"),
    "orthogonal": ("orthogonal initialisation fails on 4-bit weights", "use default, or eva"),
    "mica": ("MiCA fails on 4-bit weights", "use eva, which chooses directions by the data"),
    "kasa": ("KaSA becomes plain LoRA on 4-bit weights without a word", "use lora.rank_allocation"),
    "monteclora": ("MonteCLoRA becomes plain LoRA on 4-bit weights without a word", "use default with lora.dropout"),
    "corda": (
        "CorDA rewrites the frozen weights, which are in 4 bits",
        "use eva, which chooses directions by the data",
    ),
    "lora_ga": ("LoRA-GA rewrites the frozen weights, which are in 4 bits", "use eva, or lora.rank_allocation"),
}
"""Why each is refused, and what to use instead."""


@dataclass(frozen=True, slots=True)
class LayerPatternSpec:
    """A rank or a scale of their own for the adapted layers whose full module name fits."""

    pattern: str = ""
    """`*` stands for any characters, `?` for one: `*.layers.0.*`. The first pattern that a layer fits counts."""
    rank: int = 0
    """0: `lora.rank`."""
    alpha: float = 0.0
    """0: `lora.alpha`."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingSpec:
    """Ends a run when the loss on the held-out samples no longer falls."""

    patience: int = 0
    """Evaluations in a row that must bring nothing; 0: never."""
    min_delta: float = 0.0
    """How much below the lowest so far a loss must be to count as fallen."""


@dataclass(frozen=True, slots=True)
class SamplePredictionsSpec:
    """Answers to some held-out samples with each evaluation."""

    count: int = 0
    """How many of those with the lowest loss, and how many of those with the highest; 0: none."""
    max_new_tokens: int = 64


def problems(spec: TrainingSpec) -> Iterator[Problem]:
    """What is refused or contradicts something else, the first one first."""
    yield from _initialization_problems(spec)
    yield from _dora_problems(spec.lora)
    yield from _pattern_problems(spec.lora)
    if not spec.evaluate_every_steps:
        for field, is_asked in (
            ("early_stopping.patience", spec.early_stopping.patience > 0),
            ("restore_best", spec.restore_best),
            ("keep_best_checkpoint", spec.keep_best_checkpoint),
        ):
            if is_asked:
                yield field, "needs evaluations on the way", "set evaluate_every_steps"


def ranges(spec: TrainingSpec) -> list[tuple[str, float, float, float]]:
    """(dotted path, value, lowest, highest) of every number here."""
    numbers: list[tuple[str, float, float, float]] = [
        ("early_stopping.patience", spec.early_stopping.patience, 0, 1000),
        ("early_stopping.min_delta", spec.early_stopping.min_delta, 0, 1000),
        ("sample_predictions.count", spec.sample_predictions.count, 0, 8),
        ("sample_predictions.max_new_tokens", spec.sample_predictions.max_new_tokens, 1, 512),
    ]
    for index, each in enumerate(spec.lora.layer_patterns):
        numbers.append((f"lora.layer_patterns[{index}].rank", each.rank, 0, 1024))
        numbers.append((f"lora.layer_patterns[{index}].alpha", each.alpha, 0, 65536))
    return numbers


def _initialization_problems(spec: TrainingSpec) -> Iterator[Problem]:
    lora, field = spec.lora, "lora.initialization"
    if lora.initialization in REFUSED_INITIALIZATIONS:
        yield (field, *REFUSED_INITIALIZATIONS[lora.initialization])
    if lora.initialization != "default" and lora.rank_allocation.warmup_steps:
        yield field, f"{lora.initialization} does not go together with lora.rank_allocation", "leave out one of them"
    if lora.initialization != "loftq":
        return
    if spec.quantization.bits != 4:
        yield field, "loftq makes up for quantisation, and there is none", "use default or eva"
    if lora.temporal_groups:
        yield field, "loftq does not go together with lora.temporal_groups", "use default or eva"
    if lora.use_dora:
        yield field, "loftq does not go together with lora.use_dora", "use default or eva"


def _dora_problems(lora: LoraSpec) -> Iterator[Problem]:
    if not lora.use_dora:
        return
    if lora.temporal_groups:
        yield "lora.use_dora", "does not go together with lora.temporal_groups", "leave out one of them"
    if lora.rank_allocation.warmup_steps:
        yield "lora.use_dora", "does not go together with lora.rank_allocation", "leave out one of them"


def _pattern_problems(lora: LoraSpec) -> Iterator[Problem]:
    if lora.layer_patterns and lora.rank_allocation.warmup_steps:
        yield "lora.layer_patterns", "do not go together with lora.rank_allocation", "leave out one of them"
    seen: set[str] = set()
    for index, each in enumerate(lora.layer_patterns):
        field = f"lora.layer_patterns[{index}]"
        if not each.pattern or not (each.rank or each.alpha):
            yield field, f"{each.pattern!r} changes nothing", "give a pattern, and rank, alpha or both"
        if each.pattern in seen:
            yield field, f"{each.pattern!r} is there twice", "leave out one of them: the first counts"
        seen.add(each.pattern)
