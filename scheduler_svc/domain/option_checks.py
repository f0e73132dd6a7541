"""Which options cannot go together, and which fit neither dataset nor device: each refusal says why and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from scheduler_svc.domain.adapter_parameters import LoraParameters
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.training_options import REFUSED_INITIALIZATIONS, LayerPattern, LoraInitialization

if TYPE_CHECKING:
    from scheduler_svc.domain.parameters import Given, TrainingParameters

_INITIALIZATION = "parameters.lora.initialization"
_DORA = "parameters.lora.use_dora"
_PATTERNS = "parameters.lora.layer_patterns"


def check_lora_options(lora: LoraParameters, *, is_4bit: bool) -> None:
    """Raises InvalidField for what is refused, or contradicts something else."""
    if lora.initialization in REFUSED_INITIALIZATIONS:
        raise InvalidField(_INITIALIZATION, REFUSED_INITIALIZATIONS[lora.initialization])
    _check_dora(lora)
    _check_patterns(lora)
    if lora.initialization is LoraInitialization.EVA and lora.rank_allocation is not None:
        raise InvalidField(
            _INITIALIZATION,
            "EVA cannot go together with lora.rank_allocation, whose warm-up finds its own directions: leave out one",
        )
    if lora.initialization is LoraInitialization.LOFTQ:
        _check_loftq(lora, is_4bit=is_4bit)


def _check_dora(lora: LoraParameters) -> None:
    if not lora.use_dora:
        return
    if lora.temporal_groups:
        raise InvalidField(
            _DORA, "cannot go together with lora.temporal_groups: no layer does both; leave out one of them"
        )
    if lora.rank_allocation is not None:
        raise InvalidField(
            _DORA,
            "cannot go together with lora.rank_allocation: cutting ranks would change the magnitudes; leave out one",
        )
    if lora.initialization is LoraInitialization.LOFTQ:
        raise InvalidField(
            _DORA,
            "cannot go together with the initialization LOFTQ: magnitudes are taken before it changes A and B; "
            "use DEFAULT or EVA",
        )


def _check_patterns(lora: LoraParameters) -> None:
    if lora.layer_patterns and lora.rank_allocation is not None:
        raise InvalidField(_PATTERNS, "cannot go together with lora.rank_allocation, which decides ranks: use either")
    seen: list[LayerPattern] = []
    for index, each in enumerate(lora.layer_patterns):
        field = f"{_PATTERNS}[{index}]"
        if each.rank is None and each.alpha is None:
            raise InvalidField(field, f"{each.pattern!r} changes nothing: give rank, alpha or both")
        if each.pattern in {one.pattern for one in seen}:
            raise InvalidField(field, f"{each.pattern!r} is there twice, and the first counts: leave out one of them")
        seen.append(each)


def _check_loftq(lora: LoraParameters, *, is_4bit: bool) -> None:
    if not is_4bit:
        raise InvalidField(
            _INITIALIZATION, "LOFTQ makes up for quantisation, and quantization.type is NONE: use DEFAULT or EVA"
        )
    if lora.temporal_groups:
        raise InvalidField(
            _INITIALIZATION,
            "LOFTQ cannot go together with lora.temporal_groups, which begin with the base model: use DEFAULT or EVA",
        )
    if lora.rank_allocation is not None:
        raise InvalidField(
            _INITIALIZATION,
            "LOFTQ cannot go together with lora.rank_allocation, which would cut away what it made up for: use either",
        )


def check_evaluation_options(parameters: TrainingParameters) -> None:
    """Raises InvalidField for options that need measurements on the way, without any."""
    if parameters.evaluate_every_steps:
        return
    for field, is_asked in (
        ("parameters.early_stopping", parameters.early_stopping is not None),
        ("parameters.checkpoints.restore_best", parameters.checkpoints.restore_best),
        ("parameters.checkpoints.keep_best", parameters.checkpoints.keep_best),
    ):
        if is_asked:
            raise InvalidField(
                field, "needs evaluate_every_steps: without it the loss is measured once, at the end; give 1 or more"
            )


def fit_evaluation(parameters: TrainingParameters, given: Given, eval_rows: int) -> TrainingParameters:
    """Returns the parameters fitted to what is held out: what only the preset says gives way where there is nothing.

    Raises:
        InvalidField: the request itself asks for measurements, and the dataset has no rows for them.
    """
    if eval_rows:
        return parameters
    asked = {
        "evaluate_every_steps": given.get("evaluate_every_steps", 0) > 0,
        "early_stopping": given.get("early_stopping") is not None,
        "sample_predictions": given.get("sample_predictions") is not None,
        "checkpoints.restore_best": bool(given.get("checkpoints", {}).get("restore_best")),
        "checkpoints.keep_best": bool(given.get("checkpoints", {}).get("keep_best")),
    }
    for name in _asked(asked):
        raise InvalidField(
            f"parameters.{name}", "needs rows of the split `eval`, and the dataset has none: add some, or leave it out"
        )
    measures = (parameters.evaluate_every_steps, parameters.early_stopping, parameters.sample_predictions)
    policy = parameters.checkpoints
    if not any(measures) and not policy.restore_best and not policy.keep_best:
        return parameters
    return replace(
        parameters,
        evaluate_every_steps=0,
        early_stopping=None,
        sample_predictions=None,
        checkpoints=replace(policy, restore_best=False, keep_best=False),
    )


def _asked(options: dict[str, bool]) -> Iterable[str]:
    return (name for name, is_asked in options.items() if is_asked)
