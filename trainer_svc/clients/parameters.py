"""Training parameters of the contract, in the fields of the training library's specification."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from reeltune.scheduler.v1 import (
    base_sharing_pb2,
    checkpoint_pb2,
    rank_allocation_pb2,
    rehearsal_pb2,
    speed_parameters_pb2,
    training_options_pb2,
)
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from trainer_svc.clients.enum_names import known, names_of

_GROUPS: dict[int, str] = {
    pb.MODULE_GROUP_LANGUAGE: "language",
    pb.MODULE_GROUP_PROJECTOR: "projector",
    pb.MODULE_GROUP_VISION: "vision",
}
_BITS: dict[int, int] = {
    pb.QUANTIZATION_TYPE_UNSPECIFIED: 4,
    pb.QUANTIZATION_TYPE_NF4: 4,
    pb.QUANTIZATION_TYPE_NONE: 16,
}
_COMPUTE_TYPES = names_of(pb.ComputeType, unspecified="auto")
_SCHEDULES = names_of(pb.LearningRateSchedule, unspecified="cosine")
_OPTIMIZERS = names_of(pb.Optimizer, unspecified="adamw")
_INITIALIZATIONS = names_of(training_options_pb2.LoraInitialization, unspecified="default")
_PLACEMENTS = names_of(training_options_pb2.FramePlacement, unspecified="even")
_ENCODER_CACHES = names_of(speed_parameters_pb2.EncoderCache, unspecified="auto")
_SHARING = names_of(base_sharing_pb2.BaseSharing, unspecified="auto")
_MISBEHAVIORS = names_of(rehearsal_pb2.MisbehaviorKind)
_MIN_FRAMES = 2
_OPTIMIZATION = (
    "learning_rate",
    "batch_size",
    "gradient_accumulation_steps",
    "epochs",
    "max_steps",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "gradient_checkpointing",
    "batch_by_length",
)


def specification_from_proto(parameters: pb.TrainingParameters) -> dict[str, Any]:
    """`TrainingSpec` fields for these parameters; a field that is not set keeps the library's default.

    Raises `DeviceUnfitError` for a value that only a newer contract knows, as all that converts parameters does.
    """
    return {
        "lora": _lora(parameters.lora),
        "quantization": quantization_from_proto(parameters.quantization),
        "sampling": sampling_from_proto(parameters.sampling),
        "optimization": _optimization(parameters.optimization),
        **_set_fields(parameters, "checkpoint_every_steps", "log_every_steps", "evaluate_every_steps"),
        **_checkpoints(parameters.checkpoints),
        "runtime": {**_speed(parameters.speed), "sharding": known(_SHARING, parameters.base_sharing, "base_sharing")},
        **_evaluation(parameters),
    }


def rehearsal_from_proto(rehearsal: rehearsal_pb2.RehearsalParameters, attempt: int) -> dict[str, Any]:
    """`RehearsalSpec` fields, besides those of the training, for these parameters and the attempt of that number."""
    return {
        "attempt": attempt,
        "step_milliseconds": rehearsal.step_milliseconds,
        "checkpoint_bytes": rehearsal.checkpoint_bytes,
        "artifact_bytes": rehearsal.artifact_bytes,
        "misbehaviors": [
            {
                "kind": known(_MISBEHAVIORS, each.kind, "rehearsal.misbehaviors.kind").upper(),
                "at_step": each.at_step,
                "attempts": each.attempts,
            }
            for each in rehearsal.misbehaviors
        ],
    }


def sampling_from_proto(sampling: pb.SamplingParameters) -> dict[str, Any]:
    """`SamplingSpec` fields for these parameters."""
    fields = _set_fields(sampling, "max_frames", "fps", "max_pixels")
    # The library's lower bound would contradict a request for a single frame.
    if fields.get("max_frames", _MIN_FRAMES) < _MIN_FRAMES:
        fields["min_frames"] = fields["max_frames"]
    return {**fields, "placement": known(_PLACEMENTS, sampling.placement, "sampling.placement")}


def _lora(lora: pb.LoraParameters) -> dict[str, Any]:
    fields = _set_fields(lora, "rank", "alpha", "dropout", "use_rslora", "temporal_kernel_size", "use_dora")
    fields["initialization"] = known(_INITIALIZATIONS, lora.initialization, "lora.initialization")
    if lora.layer_patterns:
        patterns = [{"pattern": each.pattern, **_set_fields(each, "rank", "alpha")} for each in lora.layer_patterns]
        fields["layer_patterns"] = patterns
    if lora.target_groups:
        fields["target_groups"] = [known(_GROUPS, group, "lora.target_groups") for group in lora.target_groups]
    if lora.HasField("rank_allocation"):
        fields["rank_allocation"] = _allocation(lora.rank_allocation)
    temporal = [known(_GROUPS, group, "lora.temporal_groups") for group in lora.temporal_groups]
    return {**fields, "temporal_groups": temporal}


def _allocation(allocation: rank_allocation_pb2.RankAllocationParameters) -> dict[str, Any]:
    shares = []
    for group in _GROUPS.values():
        if allocation.HasField(f"{group}_share"):  # type: ignore[arg-type]
            bounds = getattr(allocation, f"{group}_share")
            shares.append(
                {"group": group, "min_share": bounds.min, "max_share": bounds.max if bounds.HasField("max") else 1.0}
            )
    fields = _set_fields(allocation, "warmup_rank", "min_rank", "calibration_batches")
    return {**fields, "warmup_steps": allocation.warmup_steps, "shares": shares}


def quantization_from_proto(quantization: pb.QuantizationParameters) -> dict[str, Any]:
    """`QuantizationSpec` fields for these parameters."""
    return {
        "bits": known(_BITS, quantization.type, "quantization.type"),
        "compute_dtype": known(_COMPUTE_TYPES, quantization.compute_type, "quantization.compute_type"),
        **_set_fields(quantization, "double_quantization", "quantize_vision"),
    }


def _checkpoints(policy: checkpoint_pb2.CheckpointPolicy) -> dict[str, Any]:
    names = {
        "keep_last": "keep_checkpoints",
        "keep_best": "keep_best_checkpoint",
        "keep_every_steps": "keep_checkpoint_every_steps",
        "restore_best": "restore_best",
    }
    return {names[name]: value for name, value in _set_fields(policy, *names).items()}


def _speed(speed: speed_parameters_pb2.SpeedParameters) -> dict[str, Any]:
    return {"encoder_cache": known(_ENCODER_CACHES, speed.encoder_cache, "speed.encoder_cache")}


def _evaluation(parameters: pb.TrainingParameters) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if parameters.HasField("early_stopping"):
        rule = parameters.early_stopping
        fields["early_stopping"] = {"patience": rule.patience, "min_delta": rule.min_delta}
    if parameters.HasField("sample_predictions"):
        asked = parameters.sample_predictions
        fields["sample_predictions"] = {"count": asked.count, **_set_fields(asked, "max_new_tokens")}
    return fields


def _optimization(optimization: pb.OptimizationParameters) -> dict[str, Any]:
    return {
        **_set_fields(optimization, *_OPTIMIZATION),
        "schedule": known(_SCHEDULES, optimization.schedule, "optimization.schedule"),
        "optimizer": known(_OPTIMIZERS, optimization.optimizer, "optimization.optimizer"),
    }


def _set_fields(message: Message, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}
