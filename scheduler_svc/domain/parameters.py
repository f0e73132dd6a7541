"""How to train: defaults, and what cannot go together.

The names are those of the contract and of the training specification that the trainer reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any

from scheduler_svc.domain.adapter_parameters import (
    LoraParameters,
    ModuleGroup,
    RankAllocation,
    ShareBounds,
    fit_allocation,
    lora_from_json,
    resolve_lora,
)
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.estimate.facts import ModelShape
from scheduler_svc.domain.option_checks import check_evaluation_options, check_lora_options, fit_evaluation
from scheduler_svc.domain.post_training_parameters import (
    EvaluationParameters,
    MergeParameters,
    evaluation_from_json,
    merge_from_json,
)
from scheduler_svc.domain.presets import with_preset
from scheduler_svc.domain.speed_parameters import SpeedParameters, speed_from_json
from scheduler_svc.domain.training_options import (
    EarlyStopping,
    FramePlacement,
    LayerPattern,
    Preset,
    SamplePredictions,
    early_stopping_from_json,
    preset_from_json,
    sample_predictions_from_json,
)

Given = Mapping[str, Any]
"""What a request says about parameters, by section and name; what it leaves out is absent."""


class QuantizationType(StrEnum):
    """How frozen weights are stored."""

    NF4 = "NF4"
    NONE = "NONE"


class ComputeType(StrEnum):
    """What matrix products are computed in; AUTO stands for the contract's UNSPECIFIED: by device."""

    AUTO = "AUTO"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class BaseSharing(StrEnum):
    """Whether devices share the frozen base out among them; AUTO stands for the contract's UNSPECIFIED."""

    AUTO = "AUTO"
    OFF = "OFF"
    ON = "ON"


class Optimizer(StrEnum):
    """An optimizer."""

    ADAMW = "ADAMW"
    ADAMW_8BIT = "ADAMW_8BIT"
    LION_8BIT = "LION_8BIT"
    PAGED_ADAMW = "PAGED_ADAMW"
    PAGED_ADAMW_8BIT = "PAGED_ADAMW_8BIT"


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    COSINE = "COSINE"
    LINEAR = "LINEAR"
    CONSTANT = "CONSTANT"


@dataclass(frozen=True, slots=True)
class QuantizationParameters:
    """How the frozen base model is held in memory."""

    type: QuantizationType = QuantizationType.NF4
    double_quantization: bool = True
    quantize_vision: bool = False
    compute_type: ComputeType = ComputeType.AUTO


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """Which frames of a clip the model sees."""

    max_frames: int = 8
    fps: float = 0.0
    max_pixels: int = 0
    placement: FramePlacement = FramePlacement.EVEN


@dataclass(frozen=True, slots=True)
class OptimizationParameters:
    """How the adapter is fitted."""

    learning_rate: float = 2e-4
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    epochs: int | None = 3
    """None when counted by `max_steps`."""
    max_steps: int = 0
    """0 when counted by `epochs`."""
    warmup_ratio: float = 0.03
    schedule: Schedule = Schedule.COSINE
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: Optimizer = Optimizer.ADAMW
    seed: int = 0
    gradient_checkpointing: bool = True
    batch_by_length: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """Which checkpoints are kept."""

    keep_last: int = 3
    """The newest and, should that one be damaged, two to fall back on."""
    keep_best: bool = False
    keep_every_steps: int = 0
    restore_best: bool = False
    """The adapter with the lowest loss is published, not the last one."""


class MisbehaviorKind(StrEnum):
    """What can go wrong in a rehearsal."""

    HANG = "HANG"
    SPIN = "SPIN"
    CRASH = "CRASH"
    EXIT = "EXIT"
    KILL_WORKER = "KILL_WORKER"
    IGNORE_ORDERS = "IGNORE_ORDERS"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    BAD_DATA = "BAD_DATA"
    NONSENSE = "NONSENSE"
    SLOW_STOP = "SLOW_STOP"


@dataclass(frozen=True, slots=True)
class Misbehavior:
    """One thing that goes wrong in a rehearsal."""

    kind: MisbehaviorKind
    at_step: int = 0
    attempts: int = 0
    """In how many attempts, the first ones; 0 for all."""


@dataclass(frozen=True, slots=True)
class RehearsalParameters:
    """A job that trains nothing."""

    step_milliseconds: int = 0
    checkpoint_bytes: int = 0
    artifact_bytes: int = 0
    misbehaviors: tuple[Misbehavior, ...] = ()


_DEFAULT_LORA = LoraParameters()
_DEFAULT_SPEED = SpeedParameters()


@dataclass(frozen=True, slots=True)
class TrainingParameters:
    """How to train: every value in force."""

    lora: LoraParameters = _DEFAULT_LORA
    quantization: QuantizationParameters = QuantizationParameters()
    sampling: SamplingParameters = SamplingParameters()
    optimization: OptimizationParameters = OptimizationParameters()
    checkpoint_every_steps: int = 50
    log_every_steps: int = 1
    evaluate_every_steps: int = 0
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    rehearsal: RehearsalParameters | None = None
    """None for training in earnest."""
    speed: SpeedParameters = _DEFAULT_SPEED
    preset: Preset | None = None
    """What was left out was taken from it; its values are among those in force."""
    early_stopping: EarlyStopping | None = None
    sample_predictions: SamplePredictions | None = None
    base_sharing: BaseSharing = BaseSharing.AUTO
    evaluation: EvaluationParameters | None = None
    """None unless the job is an evaluation."""
    merge: MergeParameters | None = None
    """None unless the job is a merge."""

    @property
    def needs_4bit(self) -> bool:
        return self.quantization.type is QuantizationType.NF4 and self.rehearsal is None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values that `parameters_from_json` reads back."""
        return _plain(self)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the catalog says of a model that matters here."""

    id: str
    max_frames: int
    """0 for no limit."""
    has_video_processor: bool
    shape: ModelShape | None = None
    """Its layers, where the catalog has counted them."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What the catalog says of a dataset that matters here."""

    id: str
    train_rows: int
    eval_rows: int
    """Of the split `eval`, which is measured while training."""
    untrained_rows: int = 0
    """Of all splits but `train`."""
    version: int = 0
    """Counts from 1; 0 where nobody said."""


def resolve_parameters(given: Given) -> TrainingParameters:
    """Returns the parameters in force: what is given, and defaults for the rest.

    Raises:
        InvalidField: two given values contradict each other.
    """
    given = with_preset(given)
    optimization = given.get("optimization", {})
    if optimization.get("max_steps", 0) > 0:
        if "epochs" in optimization:
            raise InvalidField(
                "parameters.optimization.max_steps", "cannot go together with epochs: give one of them, or max_steps 0"
            )
        given = {**given, "optimization": {**optimization, "epochs": None}}
    parameters = parameters_from_json(given)
    lora = resolve_lora(parameters.lora, parameters.optimization.max_steps)
    quantization = _resolve_quantization(parameters, given.get("quantization", {}))
    check_lora_options(lora, is_4bit=quantization.type is QuantizationType.NF4)
    check_evaluation_options(parameters)
    if lora is parameters.lora and quantization is parameters.quantization:
        return parameters
    return replace(parameters, lora=lora, quantization=quantization)


def fit_parameters(
    parameters: TrainingParameters, given: Given, model: ModelFacts, dataset: DatasetFacts
) -> TrainingParameters:
    """Returns the parameters fitted to model and dataset: a default gives way to what the model takes.

    Raises:
        InvalidField: the model cannot take clips or that many frames, or the dataset has no rows for what is asked.
    """
    if not model.has_video_processor:
        raise InvalidField("model_id", "has no video processor, so it takes no clips: choose a video-text model")
    if dataset.train_rows == 0:
        raise InvalidField("dataset_id", "has no rows in the split `train`: choose a dataset that has")
    parameters = fit_evaluation(parameters, given, dataset.eval_rows)
    fit_allocation(parameters.lora, _widths(model.shape), _steps(parameters.optimization, dataset.train_rows))
    if model.max_frames and parameters.sampling.max_frames > model.max_frames:
        if "max_frames" in given.get("sampling", {}):
            raise InvalidField(
                "parameters.sampling.max_frames",
                f"is more than the {model.max_frames} frames that the model takes: give at most {model.max_frames}",
            )
        return replace(parameters, sampling=replace(parameters.sampling, max_frames=model.max_frames))
    return parameters


def _widths(shape: ModelShape | None) -> dict[ModuleGroup, int]:
    """What one rank costs in each part, in parameters."""
    if shape is None:
        return {}
    parts = {
        ModuleGroup.VISION: shape.vision,
        ModuleGroup.PROJECTOR: shape.projector,
        ModuleGroup.LANGUAGE: shape.language,
    }
    return {group: part.linear_inputs + part.linear_outputs for group, part in parts.items()}


def _steps(optimization: OptimizationParameters, rows: int) -> int:
    batches = math.ceil(rows / optimization.batch_size)
    per_epoch = math.ceil(batches / optimization.gradient_accumulation_steps)
    return optimization.max_steps or (optimization.epochs or 1) * per_epoch


def parameters_from_json(value: Given) -> TrainingParameters:
    """Returns the parameters in plain values, as `TrainingParameters.to_json` gives them; absent ones get a default."""
    return TrainingParameters(
        **{
            name: _SECTIONS[name](value[name]) if name in _SECTIONS else value[name]
            for name in _READERS[TrainingParameters][0]
            if name in value
        }
    )


def _plain(value: Any) -> dict[str, Any]:
    """What `dataclasses.asdict` gives, without its copies of what cannot change: every job passes here."""
    names, read = _READERS[type(value)]
    plain = dict(zip(names, read(value), strict=True))
    for name in _NESTED.get(type(value), ()):
        part = plain[name]
        if isinstance(part, tuple):
            plain[name] = tuple(_plain(each) for each in part)
        elif part is not None:
            plain[name] = _plain(part)
    return plain


def _reader(kind: type) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(one.name for one in fields(kind))
    read = attrgetter(*names)
    # Of a single name it gives the value itself.
    return names, read if len(names) > 1 else lambda value: (read(value),)


_READERS = {
    kind: _reader(kind)
    for kind in (
        TrainingParameters,
        LoraParameters,
        RankAllocation,
        ShareBounds,
        QuantizationParameters,
        SamplingParameters,
        OptimizationParameters,
        CheckpointPolicy,
        RehearsalParameters,
        Misbehavior,
        SpeedParameters,
        LayerPattern,
        EarlyStopping,
        SamplePredictions,
        EvaluationParameters,
        MergeParameters,
    )
}
_NESTED: Mapping[type, tuple[str, ...]] = {
    TrainingParameters: (
        *("lora", "quantization", "sampling", "optimization", "checkpoints", "rehearsal", "speed"),
        *("early_stopping", "sample_predictions", "evaluation", "merge"),
    ),
    LoraParameters: ("rank_allocation", "layer_patterns"),
    RankAllocation: ("vision_share", "projector_share", "language_share"),
    RehearsalParameters: ("misbehaviors",),
}


def _quantization(value: Mapping[str, Any]) -> QuantizationParameters:
    return QuantizationParameters(**_with_enums(value, {"type": QuantizationType, "compute_type": ComputeType}))


def _optimization(value: Mapping[str, Any]) -> OptimizationParameters:
    return OptimizationParameters(**_with_enums(value, {"schedule": Schedule, "optimizer": Optimizer}))


def _rehearsal(value: Mapping[str, Any] | None) -> RehearsalParameters | None:
    if value is None:
        return None
    misbehaviors = (_with_enums(each, {"kind": MisbehaviorKind}) for each in value.get("misbehaviors", ()))
    return RehearsalParameters(**{**value, "misbehaviors": tuple(Misbehavior(**each) for each in misbehaviors)})


_SECTIONS: Mapping[str, Callable[[Any], Any]] = {
    "lora": lora_from_json,
    "quantization": _quantization,
    "sampling": lambda value: SamplingParameters(**_with_enums(value, {"placement": FramePlacement})),
    "optimization": _optimization,
    "checkpoints": lambda value: CheckpointPolicy(**value),
    "rehearsal": _rehearsal,
    "speed": speed_from_json,
    "preset": preset_from_json,
    "early_stopping": early_stopping_from_json,
    "sample_predictions": sample_predictions_from_json,
    "base_sharing": BaseSharing,
    "evaluation": lambda value: None if value is None else evaluation_from_json(value),
    "merge": lambda value: None if value is None else merge_from_json(value),
}


def _with_enums(values: Mapping[str, Any], enums: Mapping[str, type[StrEnum]]) -> dict[str, Any]:
    return {name: enums[name](value) if name in enums else value for name, value in values.items()}


def _resolve_quantization(parameters: TrainingParameters, given: Mapping[str, Any]) -> QuantizationParameters:
    quantization = parameters.quantization
    if quantization.type is QuantizationType.NONE:
        for name in ("double_quantization", "quantize_vision"):
            if given.get(name):
                raise InvalidField(
                    f"parameters.quantization.{name}", "needs quantised weights: set quantization.type to NF4"
                )
        quantization = replace(quantization, double_quantization=False)
    if quantization.quantize_vision and ModuleGroup.VISION in parameters.lora.target_groups:
        raise InvalidField(
            "parameters.quantization.quantize_vision",
            "cannot go together with an adapter on the vision tower: leave VISION out of lora.target_groups, "
            "or the tower unquantised",
        )
    return quantization
