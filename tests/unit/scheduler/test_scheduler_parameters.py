"""Defaults, and what cannot go together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from reeltune.scheduler.v1 import speed_parameters_pb2, training_options_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from scheduler_svc.domain.adapter_parameters import LoraParameters, ModuleGroup, ShareBounds
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.estimate.facts import ModelShape, Part
from scheduler_svc.domain.parameters import (
    ComputeType,
    DatasetFacts,
    ModelFacts,
    Optimizer,
    QuantizationType,
    Schedule,
    TrainingParameters,
    fit_parameters,
    parameters_from_json,
    resolve_parameters,
)
from scheduler_svc.rpc.parameters_convert import asked_from_proto, given_from_proto, parameters_to_proto
from trainer_svc.qlora.spec import TrainingSpec

MODEL = ModelFacts("mdl_1", max_frames=16, has_video_processor=True)
DATASET = DatasetFacts("ds_1", train_rows=5, eval_rows=0)

ALLOCATION = "parameters.lora.rank_allocation"

given_parameters = st.fixed_dictionaries(
    {},
    optional={
        "lora": st.fixed_dictionaries(
            {},
            optional={
                "rank": st.integers(1, 1024),
                "target_groups": st.lists(st.sampled_from(list(ModuleGroup)), min_size=1, unique=True),
                "use_rslora": st.booleans(),
            },
        ),
        "quantization": st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(list(QuantizationType)),
                "compute_type": st.sampled_from(["BF16", "FP32"]),
            },
        ),
        "sampling": st.fixed_dictionaries({}, optional={"max_frames": st.integers(1, 16), "fps": st.floats(0, 240)}),
        "speed": st.fixed_dictionaries({}, optional={"encoder_cache": st.sampled_from(["AUTO", "OFF"])}),
        "optimization": st.fixed_dictionaries(
            {},
            optional={
                "batch_by_length": st.booleans(),
                "epochs": st.integers(1, 1000),
                "schedule": st.sampled_from(list(Schedule)),
                "optimizer": st.sampled_from(list(Optimizer)),
                "seed": st.integers(0, 2**32 - 1),
                "gradient_checkpointing": st.booleans(),
            },
        ),
        "checkpoint_every_steps": st.integers(0, 1000),
    },
)


def test_an_empty_request_gets_the_defaults_of_the_contract() -> None:
    parameters = resolve_parameters({})
    assert parameters == TrainingParameters()
    assert (parameters.lora.rank, parameters.lora.alpha, parameters.lora.dropout) == (16, 32, 0.05)
    assert (parameters.optimization.epochs, parameters.optimization.max_steps) == (3, 0)
    assert parameters.needs_4bit
    _check_documented_defaults(parameters_to_proto(parameters))


def _check_documented_defaults(message: pb.TrainingParameters) -> None:
    """The contract's comments say `Default X.`; what a job shows must be that."""
    assert (message.sampling.max_frames, message.sampling.fps, message.sampling.max_pixels) == (8, 0, 0)
    assert (message.optimization.learning_rate, message.optimization.batch_size) == (2e-4, 4)
    assert (message.optimization.gradient_accumulation_steps, message.optimization.warmup_ratio) == (1, 0.03)
    assert message.optimization.schedule == pb.LEARNING_RATE_SCHEDULE_COSINE
    assert message.optimization.gradient_checkpointing
    assert (message.checkpoint_every_steps, message.log_every_steps, message.evaluate_every_steps) == (50, 1, 0)
    assert message.speed.encoder_cache == speed_parameters_pb2.ENCODER_CACHE_AUTO
    assert not message.optimization.batch_by_length
    assert list(message.lora.target_groups) == [pb.MODULE_GROUP_LANGUAGE]


@given(given_parameters)
def test_the_fast_way_to_write_parameters_writes_the_same(given: dict[str, Any]) -> None:
    parameters = resolve_parameters(given)
    assert json.loads(orjson.dumps(parameters)) == json.loads(json.dumps(parameters.to_json()))
    misbehaving = parameters_from_json({"rehearsal": {"misbehaviors": [{"kind": "HANG", "at_step": 2}]}})
    assert parameters_from_json(json.loads(orjson.dumps(misbehaving))) == misbehaving


@given(given=given_parameters)
def test_what_is_given_survives_storage_and_the_contract(given: dict[str, Any]) -> None:
    parameters = resolve_parameters(given)
    assert parameters_from_json(json.loads(json.dumps(parameters.to_json()))) == parameters
    shown = given_from_proto(parameters_to_proto(parameters))
    for section, values in given.items():
        for name, value in values.items() if isinstance(values, dict) else [(None, values)]:
            assert (shown[section][name] if name else shown[section]) == value


def test_a_request_says_only_what_it_sets() -> None:
    message = ParseDict(
        {
            "lora": {"rank": 8, "dropout": 0, "temporalGroups": ["MODULE_GROUP_VISION"]},
            "quantization": {"type": "QUANTIZATION_TYPE_NONE"},
            "logEverySteps": 5,
        },
        pb.TrainingParameters(),
    )
    assert given_from_proto(message) == {
        "lora": {"rank": 8, "dropout": 0.0, "temporal_groups": ["VISION"]},
        "quantization": {"type": "NONE"},
        "log_every_steps": 5,
    }
    assert given_from_proto(pb.TrainingParameters()) == {}


def test_requests_that_ask_for_the_same_share_what_follows_from_it() -> None:
    asked = [asked_from_proto(ParseDict({"lora": {"rank": rank}}, pb.TrainingParameters())) for rank in (8, 8, 9)]
    assert asked[0] is asked[1]
    assert asked[0].given == {"lora": {"rank": 8}}
    assert [each.resolved.lora.rank for each in asked] == [8, 8, 9]
    absent, zero = (pb.TrainingParameters(lora=pb.LoraParameters(dropout=dropout)) for dropout in (None, 0.0))
    assert asked_from_proto(absent).resolved.lora.dropout == LoraParameters().dropout
    assert asked_from_proto(zero).resolved.lora.dropout == 0.0
    contradiction = {"optimization": {"maxSteps": 1, "epochs": 1}}
    for _ in range(2):
        with pytest.raises(InvalidField):
            _ = asked_from_proto(ParseDict(contradiction, pb.TrainingParameters())).resolved


def test_large_parameters_are_not_remembered() -> None:
    pattern = training_options_pb2.LayerPattern(pattern="x" * 64, rank=4)
    message = pb.TrainingParameters(lora=pb.LoraParameters(layer_patterns=[pattern] * 100))
    assert asked_from_proto(message) is not asked_from_proto(message)
    assert asked_from_proto(message).given == given_from_proto(message)


def test_an_allocation_of_ranks_survives_storage_and_the_contract() -> None:
    request = {
        "lora": {
            "targetGroups": ["MODULE_GROUP_VISION", "MODULE_GROUP_LANGUAGE"],
            "rank": 4,
            "rankAllocation": {"warmupSteps": 50, "visionShare": {"min": 0.25}},
        }
    }
    parameters = resolve_parameters(given_from_proto(ParseDict(request, pb.TrainingParameters())))
    allocation = parameters.lora.rank_allocation
    assert allocation is not None
    assert (allocation.warmup_rank, allocation.min_rank, allocation.calibration_batches) == (16, 0, 8)
    assert allocation.shares == {ModuleGroup.VISION: ShareBounds(0.25, 1.0)}
    assert parameters_from_json(json.loads(json.dumps(parameters.to_json()))) == parameters
    shown = parameters_to_proto(parameters).lora.rank_allocation
    assert (shown.warmup_steps, shown.warmup_rank, shown.vision_share.min) == (50, 16, 0.25)
    assert not shown.HasField("language_share")


def test_steps_take_the_place_of_epochs() -> None:
    parameters = resolve_parameters({"optimization": {"max_steps": 7}})
    assert (parameters.optimization.epochs, parameters.optimization.max_steps) == (None, 7)
    assert not parameters_to_proto(parameters).optimization.HasField("epochs")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"optimization": {"epochs": 2, "max_steps": 10}}, "parameters.optimization.max_steps"),
        ({"lora": {"temporal_groups": ["VISION"]}}, "parameters.lora.temporal_groups"),
        ({"lora": {"rank_allocation": {"warmup_steps": 5, "warmup_rank": 16}}}, f"{ALLOCATION}.warmup_rank"),
        ({"lora": {"rank": 1024, "rank_allocation": {"warmup_steps": 5}}}, f"{ALLOCATION}.warmup_rank"),
        ({"lora": {"rank_allocation": {"warmup_steps": 5, "min_rank": 17}}}, f"{ALLOCATION}.min_rank"),
        (
            {"lora": {"rank_allocation": {"warmup_steps": 5}}, "optimization": {"max_steps": 5}},
            f"{ALLOCATION}.warmup_steps",
        ),
        (
            {"lora": {"rank_allocation": {"warmup_steps": 5}, "temporal_groups": ["LANGUAGE"]}},
            ALLOCATION,
        ),
        (
            {"lora": {"rank_allocation": {"warmup_steps": 5, "vision_share": {"min": 0.5}}}},
            f"{ALLOCATION}.vision_share",
        ),
        (
            {"lora": {"rank_allocation": {"warmup_steps": 5, "language_share": {"min": 0.5, "max": 0.4}}}},
            f"{ALLOCATION}.language_share",
        ),
        (
            {
                "lora": {
                    "target_groups": ["LANGUAGE", "VISION"],
                    "rank_allocation": {
                        "warmup_steps": 5,
                        "language_share": {"min": 0.6},
                        "vision_share": {"min": 0.5},
                    },
                }
            },
            ALLOCATION,
        ),
        (
            {"lora": {"rank_allocation": {"warmup_steps": 5, "language_share": {"max": 0.9}}}},
            ALLOCATION,
        ),
        (
            {"quantization": {"type": "NONE", "double_quantization": True}},
            "parameters.quantization.double_quantization",
        ),
        ({"quantization": {"type": "NONE", "quantize_vision": True}}, "parameters.quantization.quantize_vision"),
        (
            {"quantization": {"quantize_vision": True}, "lora": {"target_groups": ["VISION"]}},
            "parameters.quantization.quantize_vision",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        resolve_parameters(given)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("given", "model", "dataset", "field"),
    [
        ({}, ModelFacts("mdl_1", 0, has_video_processor=False), DATASET, "model_id"),
        ({}, MODEL, DatasetFacts("ds_1", 0, 3), "dataset_id"),
        ({"evaluate_every_steps": 10}, MODEL, DATASET, "parameters.evaluate_every_steps"),
        ({"sampling": {"max_frames": 17}}, MODEL, DATASET, "parameters.sampling.max_frames"),
    ],
)
def test_what_model_or_dataset_cannot_take_is_refused(
    given: dict[str, Any], model: ModelFacts, dataset: DatasetFacts, field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        fit_parameters(resolve_parameters(given), given, model, dataset)
    assert refused.value.field == field


def test_a_default_gives_way_to_the_model() -> None:
    small = ModelFacts("mdl_1", max_frames=4, has_video_processor=True)
    assert fit_parameters(resolve_parameters({}), {}, small, DATASET).sampling.max_frames == 4
    unlimited = ModelFacts("mdl_1", max_frames=0, has_video_processor=True)
    wish = {"sampling": {"max_frames": 700}}
    assert fit_parameters(resolve_parameters(wish), wish, unlimited, DATASET).sampling.max_frames == 700


def test_the_names_are_those_of_the_training_specification() -> None:
    specification = TrainingSpec().to_dict()
    renamed = {"quantization.type", "quantization.compute_type"}
    # The scheduler's own business, another recipe's, and what the specification counts to the machine.
    elsewhere = {"checkpoints", "rehearsal", "speed", "preset", "base_sharing", "evaluation", "merge"}
    for section, values in TrainingParameters().to_json().items():
        assert section in specification or section in elsewhere
        if section in elsewhere:
            continue
        if isinstance(values, dict):
            assert {f"{section}.{name}" for name in values if name not in specification[section]} <= renamed


def test_the_device_decides_where_no_compute_type_is_given() -> None:
    assert resolve_parameters({}).quantization.compute_type is ComputeType.AUTO
    assert parameters_to_proto(resolve_parameters({})).quantization.compute_type == pb.COMPUTE_TYPE_UNSPECIFIED


def test_a_rank_allocation_is_held_against_the_models_layers_and_the_jobs_steps() -> None:
    part = Part(linear_layers=1, linear_inputs=30, linear_outputs=20)
    shape = ModelShape(part, Part(), part, Part(), 100, 100, None)
    given = {
        "lora": {
            "target_groups": ["LANGUAGE", "VISION"],
            "rank": 8,
            "rank_allocation": {"warmup_steps": 2, "min_rank": 4, "vision_share": {"max": 0.2}},
        },
        "optimization": {"epochs": 3, "batch_size": 2, "gradient_accumulation_steps": 2},
    }
    parameters = resolve_parameters(given)
    with pytest.raises(InvalidField, match=r"max of 0\.2, and min_rank alone takes 0\.25") as refused:
        fit_parameters(parameters, given, replace(MODEL, shape=shape), DATASET)
    assert refused.value.field == f"{ALLOCATION}.vision_share"
    # Nobody knows its layers: the trainer will see.
    assert fit_parameters(parameters, given, MODEL, DATASET) == parameters
    # Five rows are three batches, and these two steps: six in three epochs.
    allocation = {"warmup_steps": 6}
    given = {"optimization": given["optimization"], "lora": {"rank_allocation": allocation}}
    with pytest.raises(InvalidField, match="less than the 6 steps") as refused:
        fit_parameters(resolve_parameters(given), given, MODEL, DATASET)
    assert refused.value.field == f"{ALLOCATION}.warmup_steps"
    allocation["warmup_steps"] = 5
    fit_parameters(resolve_parameters(given), given, MODEL, DATASET)
