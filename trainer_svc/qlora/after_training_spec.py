"""What jobs after training are asked to do. Standard library only: services read it without loading torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from trainer_svc.qlora.spec import SpecError, TrainingSpec

SOURCE = "source"
"""The folder of the adapter that such a job begins with, in the job's folder."""
EVALUATION = "evaluation"
MERGE = "merge"
"""Parts of `spec.json` that only such a job has; the rest is that of the training."""


class Condition(StrEnum):
    """Who answers, and from what; the names are those of the contract without the prefix `EVALUATION_CONDITION_`."""

    BASE = "BASE"
    TUNED = "TUNED"
    SHUFFLED_CLIPS = "SHUFFLED_CLIPS"
    REVERSED_FRAMES = "REVERSED_FRAMES"
    SHUFFLED_FRAMES = "SHUFFLED_FRAMES"


FRAME_ORDERS = (Condition.REVERSED_FRAMES, Condition.SHUFFLED_FRAMES)
"""Asked of rows alone of which some clip shows more than one frame: all others have no order to lose."""
CONTROLS = (Condition.SHUFFLED_CLIPS, *FRAME_ORDERS)


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """How to ask."""

    split: str = "eval"
    """Of which split the rows are, for the report."""
    max_new_tokens: int = 64
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    controls: tuple[Condition, ...] = CONTROLS
    """What the tuned model is asked besides."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, in the order in which they are asked and told."""
        return (Condition.BASE, Condition.TUNED, *(control for control in CONTROLS if control in self.controls))


class MergeWeights(StrEnum):
    """The weights that an adapter is merged into; the names are those of the contract without `MERGE_WEIGHTS_`."""

    DEQUANTIZED = "DEQUANTIZED"
    ORIGINAL = "ORIGINAL"


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """How to merge."""

    weights: MergeWeights = MergeWeights.DEQUANTIZED
    split: str = "eval"
    """Of which split the rows are that merged model and adapter are compared on, for the report."""


@dataclass(frozen=True, slots=True)
class AfterTrainingSpec:
    """One job after training."""

    training: TrainingSpec
    """How the model is held and clips are sampled; steps between checkpoints."""
    task: EvaluationSpec | MergeSpec

    @classmethod
    def read(cls, file: Path) -> Self:
        """The job in a JSON file. Raises `SpecError`."""
        try:
            value = json.loads(file.read_bytes())
            sections = {name: value.pop(name) for name in (EVALUATION, MERGE) if name in value}
        except (OSError, ValueError, AttributeError) as error:
            raise SpecError("spec", f"{file.name} cannot be read: {error}", "give a JSON object") from error
        if len(sections) != 1:
            raise SpecError("spec", "names no task, or two", f"give one of {EVALUATION} and {MERGE}")
        training = TrainingSpec.from_dict(value).validate()
        ((name, section),) = sections.items()
        try:
            return cls(training, _evaluation(section) if name == EVALUATION else _merge(section))
        except (TypeError, ValueError) as error:
            raise SpecError(name, f"cannot be read: {error}", "use the fields of its specification") from error


def _evaluation(value: Mapping[str, Any]) -> EvaluationSpec:
    controls = tuple(Condition(control) for control in value.get("controls", CONTROLS))
    return EvaluationSpec(**{**value, "controls": controls})


def _merge(value: Mapping[str, Any]) -> MergeSpec:
    return MergeSpec(**{**value, "weights": MergeWeights(value.get("weights", MergeWeights.DEQUANTIZED))})
