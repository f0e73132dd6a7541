"""Jobs that begin with what a training job has made: which training job will do, and how they are to be carried out."""

from __future__ import annotations

from collections.abc import Mapping
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


def check_rows(evaluation: EvaluationParameters, dataset: DatasetFacts) -> None:
    """Raises InvalidField when the dataset is known to have no such rows."""
    if not evaluation.split and not dataset.untrained_rows:
        raise InvalidField(
            "parameters.split",
            "is left out and the dataset has no rows outside the split `train`: name a dataset that has, or `train`, "
            "whose rows the adapter has been shown",
        )
    if evaluation.split == "train" and not dataset.train_rows:
        raise InvalidField("parameters.split", "is `train` and the dataset has no such rows")
