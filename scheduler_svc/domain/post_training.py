"""Jobs that begin with what a training job has made: which training job will do, and how they are to be carried out."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from scheduler_svc.domain.errors import ArtifactNotFound, IllegalTransition, InvalidField, SourceUnfit
from scheduler_svc.domain.job import FINAL_STATES, Job, Recipe
from scheduler_svc.domain.parameters import BaseSharing, CheckpointPolicy, DatasetFacts, TrainingParameters
from scheduler_svc.domain.post_training_parameters import EvaluationParameters, MergeParameters

_ROWS_BETWEEN_CHECKPOINTS = 25
_NO_TRAINING: Mapping[str, Any] = {
    "evaluate_every_steps": 0,
    "early_stopping": None,
    "sample_predictions": None,
    "base_sharing": BaseSharing.AUTO,
}
"""What is due only while something is trained."""
_EVAL_NAMES = {"validation": "eval", "val": "eval"}
_HELD_OUT = ("eval", "test")
"""What an evaluation asks about unless told otherwise; the trainer looks for them in this order."""


def recipe_of(parameters: TrainingParameters) -> Recipe:
    """Returns what a trainer does with a job of these parameters."""
    if parameters.rehearsal is not None:
        return Recipe.REHEARSAL
    if parameters.evaluation is not None:
        return Recipe.EVALUATION
    return Recipe.QLORA if parameters.merge is None else Recipe.MERGE


def check_source(source: Job, recipe: Recipe) -> None:
    """Tells whether a job of that recipe can begin with what `source` has made.

    Raises:
        IllegalTransition: it is not final: what it makes is still to come.
        ArtifactNotFound: it has made nothing.
        SourceUnfit: what it made is no adapter, or none that can be merged.
    """
    action = "be evaluated" if recipe is Recipe.EVALUATION else "be merged"
    if source.needs.recipe is not Recipe.QLORA:
        raise SourceUnfit(source.id, f"is a job of the recipe {source.needs.recipe}", f"{action}: name a training job")
    if source.state not in FINAL_STATES:
        raise IllegalTransition(source.state, action, sorted(FINAL_STATES))
    if not source.has_artifact:
        raise ArtifactNotFound(source.id, source.state)
    lora = source.parameters.lora
    if recipe is Recipe.MERGE and lora.temporal_groups:
        raise SourceUnfit(
            source.id,
            "has an adapter that mixes tokens along time (lora.temporal_groups), which no weight matrix can hold",
            "be merged: export what is left of it as plain LoRA, or ask the adapter itself",
        )


def evaluation_of(source: Job, evaluation: EvaluationParameters) -> TrainingParameters:
    """Returns the parameters of an evaluation: model and frames as in training; a step is a row."""
    return replace(
        source.parameters,
        evaluation=evaluation,
        checkpoint_every_steps=_ROWS_BETWEEN_CHECKPOINTS,
        checkpoints=CheckpointPolicy(),
        **_NO_TRAINING,
    )


def merge_of(source: Job, merge: MergeParameters) -> TrainingParameters:
    """Returns the parameters of a merge: the model is loaded and clips are sampled as in training."""
    return replace(source.parameters, merge=merge, checkpoint_every_steps=0, **_NO_TRAINING)


def check_rows(evaluation: EvaluationParameters, dataset: DatasetFacts, splits: Set[str]) -> None:
    """Raises InvalidField when the dataset is known to have no such rows. `splits`: those that have rows; empty where
    they are not known."""
    wanted = _EVAL_NAMES.get(evaluation.split, evaluation.split)
    there = {_EVAL_NAMES.get(split, split) for split in splits}
    if not wanted:
        if not dataset.untrained_rows or (there and there.isdisjoint(_HELD_OUT)):
            raise InvalidField(
                "parameters.split",
                f"is left out and the dataset has no rows of the split {' or '.join(_HELD_OUT)}: name a dataset that "
                f"has, or one of its splits{_listed(splits)}; the adapter has been shown the rows of `train`",
            )
        return
    counted = {"train": dataset.train_rows, "eval": dataset.eval_rows}
    if not counted.get(wanted, not there or wanted in there):
        raise InvalidField(
            "parameters.split",
            f"is `{evaluation.split}` and the dataset has no such rows: name one of its splits{_listed(splits)}",
        )


def _listed(splits: Set[str]) -> str:
    return f", {' or '.join(sorted(splits))}" if splits else ""
