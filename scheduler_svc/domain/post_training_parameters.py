"""How an adapter is evaluated or merged: what a request says, and defaults. The names are those of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scheduler_svc.domain.errors import InvalidField


class EvaluationControl(StrEnum):
    """A way to take the meaning out of the clips while everything else stays."""

    SHUFFLED_CLIPS = "SHUFFLED_CLIPS"
    REVERSED_FRAMES = "REVERSED_FRAMES"
    SHUFFLED_FRAMES = "SHUFFLED_FRAMES"


class MergeWeights(StrEnum):
    """The weights that an adapter is merged into."""

    DEQUANTIZED = "DEQUANTIZED"
    ORIGINAL = "ORIGINAL"


@dataclass(frozen=True, slots=True)
class EvaluationParameters:
    """How an evaluation asks."""

    split: str = ""
    """Empty for the rows that training held out."""
    max_rows: int = 0
    """0 for all."""
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    controls: tuple[EvaluationControl, ...] = tuple(EvaluationControl)
    without_controls: bool = False


@dataclass(frozen=True, slots=True)
class MergeParameters:
    """How an adapter is merged."""

    weights: MergeWeights = MergeWeights.DEQUANTIZED
    check_rows: int = 8


def resolve_evaluation(given: Mapping[str, Any]) -> EvaluationParameters:
    """Returns the parameters in force. Raises InvalidField for controls that are asked for and forbidden."""
    if given.get("without_controls"):
        if given.get("controls"):
            raise InvalidField("parameters.controls", "cannot go together with without_controls: give one of them")
        given = {**given, "controls": ()}
    return evaluation_from_json(given)


def evaluation_from_json(value: Mapping[str, Any]) -> EvaluationParameters:
    """Returns the parameters in plain values; absent ones get a default."""
    if "controls" not in value:
        return EvaluationParameters(**value)
    return EvaluationParameters(**{**value, "controls": tuple(EvaluationControl(each) for each in value["controls"])})


def merge_from_json(value: Mapping[str, Any]) -> MergeParameters:
    """Returns the parameters in plain values; absent ones get a default."""
    if "weights" not in value:
        return MergeParameters(**value)
    return MergeParameters(**{**value, "weights": MergeWeights(value["weights"])})
