"""Training parameters, from and to the contract."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from reeltune.scheduler.v1 import (
    base_sharing_pb2,
    checkpoint_pb2,
    evaluation_pb2,
    merge_pb2,
    post_training_pb2,
    rehearsal_pb2,
    speed_parameters_pb2,
    training_options_pb2,
)
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from scheduler_svc.domain.asked_parameters import AskedParameters
from scheduler_svc.domain.parameters import ComputeType, Given, TrainingParameters

_ENUMS = {
    "type": ("QUANTIZATION_TYPE_", pb.QuantizationType),
    "compute_type": ("COMPUTE_TYPE_", pb.ComputeType),
    "schedule": ("LEARNING_RATE_SCHEDULE_", pb.LearningRateSchedule),
    "optimizer": ("OPTIMIZER_", pb.Optimizer),
    "target_groups": ("MODULE_GROUP_", pb.ModuleGroup),
    "temporal_groups": ("MODULE_GROUP_", pb.ModuleGroup),
    "encoder_cache": ("ENCODER_CACHE_", speed_parameters_pb2.EncoderCache),
    "initialization": ("LORA_INITIALIZATION_", training_options_pb2.LoraInitialization),
    "placement": ("FRAME_PLACEMENT_", training_options_pb2.FramePlacement),
    "preset": ("PRESET_", training_options_pb2.Preset),
    "base_sharing": ("BASE_SHARING_", base_sharing_pb2.BaseSharing),
    "controls": ("EVALUATION_CONTROL_", evaluation_pb2.EvaluationControl),
    "weights": ("MERGE_WEIGHTS_", merge_pb2.MergeWeights),
    "kind": ("MISBEHAVIOR_KIND_", rehearsal_pb2.MisbehaviorKind),
}

_AUTO = ("compute_type", "base_sharing")
"""Those whose AUTO is the contract's UNSPECIFIED."""
_REMEMBERED_BYTES = 4096
"""Larger parameters are looked at each time: nobody is to fill the memory with them."""
_GROUP_LISTS = ("target_groups", "temporal_groups", "controls")


def given_from_proto(message: pb.TrainingParameters) -> Given:
    """Returns what a request says, by section and name; what it leaves out is absent."""
    return _given(message)


def asked_from_proto(message: pb.TrainingParameters) -> AskedParameters:
    """Returns the parameters that a request gives; requests that give the same share one answer.

    Users try many datasets with the parameters that they are used to: what follows from those is known already.
    """
    serialized = message.SerializeToString(deterministic=True)
    if len(serialized) > _REMEMBERED_BYTES:
        return AskedParameters(_given(message))
    return _remembered(serialized)


@functools.lru_cache(maxsize=256)
def _remembered(serialized: bytes) -> AskedParameters:
    return AskedParameters(_given(pb.TrainingParameters.FromString(serialized)))


def evaluation_from_proto(message: evaluation_pb2.EvaluationParameters) -> Given:
    """Returns what a request says about an evaluation; what it leaves out is absent."""
    return _given(message)


def merge_from_proto(message: merge_pb2.MergeParameters) -> Given:
    """Returns what a request says about a merge; what it leaves out is absent."""
    return _given(message)


@functools.lru_cache(maxsize=256)
def parameters_to_proto(parameters: TrainingParameters) -> pb.TrainingParameters:
    """Returns every value in force; `epochs` is absent where `max_steps` counts.

    Equal parameters give the same message, to be put into another and not to be changed: a page of jobs has few
    different ones.
    """
    value = parameters.to_json()
    rehearsal, *_ = (value.pop(name) for name in ("rehearsal", "evaluation", "merge"))
    return pb.TrainingParameters(
        lora=pb.LoraParameters(**_fields(value.pop("lora"))),
        quantization=pb.QuantizationParameters(**_fields(value.pop("quantization"))),
        sampling=pb.SamplingParameters(**_fields(value.pop("sampling"))),
        optimization=pb.OptimizationParameters(**_fields(value.pop("optimization"))),
        checkpoints=checkpoint_pb2.CheckpointPolicy(**value.pop("checkpoints")),
        speed=speed_parameters_pb2.SpeedParameters(**_fields(value.pop("speed"))),
        rehearsal=None if rehearsal is None else _rehearsal(rehearsal),
        **_fields(value),
    )


def _given(message: Message) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for field, value in message.ListFields():
        if isinstance(value, Message):
            given[field.name] = _given(value)
        elif field.message_type is not None:
            given[field.name] = [_given(each) for each in value]
        elif field.name in _ENUMS:
            is_list = field.name in _GROUP_LISTS
            names = [_enum_name(field.name, number) for number in (value if is_list else [value])]
            given[field.name] = names if is_list else names[0]
        else:
            given[field.name] = value
    return given


def post_training_to_proto(parameters: TrainingParameters) -> post_training_pb2.PostTrainingParameters | None:
    """Returns what is done with an adapter that another job has trained; None for a training."""
    value = parameters.to_json()
    if value["evaluation"] is not None:
        asked = evaluation_pb2.EvaluationParameters(**_fields(value["evaluation"]))
        return post_training_pb2.PostTrainingParameters(evaluation=asked)
    if value["merge"] is not None:
        return post_training_pb2.PostTrainingParameters(merge=merge_pb2.MergeParameters(**_fields(value["merge"])))
    return None


def _rehearsal(values: Mapping[str, Any]) -> rehearsal_pb2.RehearsalParameters:
    misbehaviors = [rehearsal_pb2.Misbehavior(**_fields(each)) for each in values["misbehaviors"]]
    return rehearsal_pb2.RehearsalParameters(**{**values, "misbehaviors": misbehaviors})


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _enum_numbers(name, value) if name in _ENUMS else value for name, value in values.items()}


def _enum_name(field: str, number: int) -> str:
    prefix, enum = _ENUMS[field]
    return enum.Name(number).removeprefix(prefix)  # type: ignore[arg-type]  # validation lets defined numbers only pass


def _enum_numbers(field: str, value: Any) -> Any:
    if value is None:
        return None
    prefix, enum = _ENUMS[field]
    if isinstance(value, list | tuple):
        return [enum.Value(prefix + name) for name in value]
    return 0 if field in _AUTO and value == ComputeType.AUTO else enum.Value(prefix + value)
