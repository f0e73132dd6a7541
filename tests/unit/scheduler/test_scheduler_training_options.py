"""Options beyond the defaults: presets, and refusals with their reason and what to use instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reeltune.scheduler.v1 import training_options_pb2 as options_pb
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from scheduler_svc.domain.device_checks import check_device_options
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.job import DeviceClass, Needs
from scheduler_svc.domain.option_checks import fit_evaluation
from scheduler_svc.domain.parameters import (
    CheckpointPolicy,
    DatasetFacts,
    ModelFacts,
    Optimizer,
    TrainingParameters,
    fit_parameters,
    parameters_from_json,
    resolve_parameters,
)
from scheduler_svc.domain.placement import check_devices
from scheduler_svc.domain.presets import PRESETS
from scheduler_svc.domain.training_options import (
    REFUSED_INITIALIZATIONS,
    EarlyStopping,
    FramePlacement,
    LayerPattern,
    LoraInitialization,
    Preset,
    SamplePredictions,
)
from scheduler_svc.rpc.parameters_convert import given_from_proto, parameters_to_proto
from trainer_svc.clients.parameters import specification_from_proto
from trainer_svc.qlora import spec_options
from trainer_svc.qlora.spec import SpecError, TrainingSpec

MODEL = ModelFacts("mdl_1", max_frames=0, has_video_processor=True)
WITH_EVAL, WITHOUT_EVAL = (DatasetFacts("ds_1", train_rows=5, eval_rows=rows) for rows in (3, 0))
ALLOCATION = {"warmup_steps": 2}


def specification(parameters: TrainingParameters) -> TrainingSpec:
    """As the trainer gets it."""
    return TrainingSpec.from_dict(specification_from_proto(parameters_to_proto(parameters))).validate()


EVERYTHING: dict[str, Any] = {
    "lora": {
        "use_dora": True,
        "initialization": "EVA",
        "layer_patterns": [{"pattern": "*.q_proj", "rank": 4}, {"pattern": "*.0.*", "alpha": 3.0}],
    },
    "sampling": {"placement": "SEGMENT_JITTER"},
    "optimization": {"optimizer": "LION_8BIT"},
    "evaluate_every_steps": 5,
    "early_stopping": {"patience": 2, "min_delta": 0.5},
    "sample_predictions": {"count": 3},
    "checkpoints": {"restore_best": True},
    "preset": "FAST",
}


def test_every_option_survives_storage_and_the_contract_and_reaches_the_trainer() -> None:
    parameters = resolve_parameters(EVERYTHING)
    assert parameters_from_json(parameters.to_json()) == parameters
    assert parameters_from_json(given_from_proto(parameters_to_proto(parameters))) == parameters
    assert parameters.lora.layer_patterns == (LayerPattern("*.q_proj", rank=4), LayerPattern("*.0.*", alpha=3.0))
    assert (parameters.lora.use_dora, parameters.lora.initialization) == (True, LoraInitialization.EVA)
    assert parameters.sampling.placement is FramePlacement.SEGMENT_JITTER
    assert parameters.early_stopping == EarlyStopping(2, 0.5)
    assert parameters.sample_predictions == SamplePredictions(3, 64)
    spec = specification(parameters)
    assert (spec.lora.use_dora, spec.lora.initialization, spec.lora.rank) == (True, "eva", 8)
    assert spec.lora.layer_patterns == (
        spec_options.LayerPatternSpec("*.q_proj", rank=4),
        spec_options.LayerPatternSpec("*.0.*", alpha=3.0),
    )
    assert (spec.sampling.placement, spec.optimization.optimizer) == ("segment_jitter", "lion_8bit")
    assert (spec.early_stopping.patience, spec.early_stopping.min_delta, spec.restore_best) == (2, 0.5, True)
    assert (spec.sample_predictions.count, spec.sample_predictions.max_new_tokens) == (3, 64)


def test_the_library_alone_has_the_defaults_of_the_contract() -> None:
    assert specification(resolve_parameters({})) == TrainingSpec()


def test_each_optimizer_and_each_start_reaches_the_trainer_by_its_name() -> None:
    for optimizer in Optimizer:
        parameters = resolve_parameters({"optimization": {"optimizer": optimizer}})
        assert specification(parameters).optimization.optimizer == optimizer.lower()
    for start in set(LoraInitialization) - set(REFUSED_INITIALIZATIONS):
        parameters = resolve_parameters({"lora": {"initialization": start}})
        assert specification(parameters).lora.initialization == start.lower()


@pytest.mark.parametrize("start", REFUSED_INITIALIZATIONS)
def test_what_fails_or_is_ignored_on_4_bit_weights_is_refused_with_what_to_use(start: LoraInitialization) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_parameters({"lora": {"initialization": start}})
    assert caught.value.field == "parameters.lora.initialization"
    assert "4-bit" in str(caught.value) or "4 bits" in str(caught.value)
    assert ": use " in str(caught.value)
    # The trainer says the same to whoever uses it alone.
    with pytest.raises(SpecError, match=r"lora\.initialization: .*; use "):
        TrainingSpec().with_overrides([f"lora.initialization={start.lower()}"]).validate()


def test_all_that_is_refused_is_in_the_contract_and_known_to_the_trainer() -> None:
    names = {
        name.removeprefix("LORA_INITIALIZATION_") for name in options_pb.LoraInitialization.DESCRIPTOR.values_by_name
    }
    assert names == {"UNSPECIFIED", *LoraInitialization}
    assert set(spec_options.REFUSED_INITIALIZATIONS) == {start.lower() for start in REFUSED_INITIALIZATIONS}


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"lora": {"use_dora": True, "temporal_groups": ["LANGUAGE"]}}, "lora.use_dora", "temporal_groups"),
        ({"lora": {"use_dora": True, "rank_allocation": ALLOCATION}}, "lora.use_dora", "rank_allocation"),
        ({"lora": {"use_dora": True, "initialization": "LOFTQ"}}, "lora.use_dora", "LOFTQ"),
        ({"lora": {"initialization": "EVA", "rank_allocation": ALLOCATION}}, "lora.initialization", "rank_allocation"),
        (
            {"lora": {"initialization": "LOFTQ", "rank_allocation": ALLOCATION}},
            "lora.initialization",
            "rank_allocation",
        ),
        (
            {"lora": {"initialization": "LOFTQ", "temporal_groups": ["LANGUAGE"]}},
            "lora.initialization",
            "temporal_groups",
        ),
        (
            {"lora": {"initialization": "LOFTQ"}, "quantization": {"type": "NONE"}},
            "lora.initialization",
            "quantization.type is NONE",
        ),
        (
            {"lora": {"layer_patterns": [{"pattern": "*", "rank": 2}], "rank_allocation": ALLOCATION}},
            "lora.layer_patterns",
            "rank_allocation",
        ),
        ({"lora": {"layer_patterns": [{"pattern": "*"}]}}, "lora.layer_patterns[0]", "changes nothing"),
        (
            {"lora": {"layer_patterns": [{"pattern": "a", "rank": 2}, {"pattern": "a", "rank": 3}]}},
            "lora.layer_patterns[1]",
            "twice",
        ),
        ({"early_stopping": {"patience": 2}}, "early_stopping", "evaluate_every_steps"),
        ({"checkpoints": {"restore_best": True}}, "checkpoints.restore_best", "evaluate_every_steps"),
        ({"checkpoints": {"keep_best": True}}, "checkpoints.keep_best", "evaluate_every_steps"),
        ({"lora": {"temporal_kernel_size": 5}}, "lora.temporal_kernel_size", "temporal_groups"),
    ],
)
def test_options_that_cannot_go_together_are_refused_by_name_here_and_by_the_trainer(
    given: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_parameters(given)
    assert caught.value.field == f"parameters.{field}"
    assert words in str(caught.value)
    message = parameters_to_proto(parameters_from_json(given))
    with pytest.raises(SpecError):
        TrainingSpec.from_dict(specification_from_proto(message)).validate()


@pytest.mark.parametrize("optimizer", ["PAGED_ADAMW", "PAGED_ADAMW_8BIT"])
def test_paged_optimizers_are_for_cuda(optimizer: str) -> None:
    parameters = resolve_parameters({"optimization": {"optimizer": optimizer}})
    check_device_options(parameters, DeviceClass.CUDA)
    for device, words in ((DeviceClass.ANY, "NVIDIA"), (DeviceClass.CPU, "NVIDIA"), (DeviceClass.JETSON, "one memory")):
        with pytest.raises(InvalidField, match=words) as caught:
            check_device_options(parameters, device)
        assert caught.value.field == "parameters.optimization.optimizer"
        assert f"use {optimizer.removeprefix('PAGED_')}" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"evaluate_every_steps": 5}, "evaluate_every_steps"),
        ({"evaluate_every_steps": 5, "early_stopping": {"patience": 1}}, "evaluate_every_steps"),
        ({"sample_predictions": {"count": 1}}, "sample_predictions"),
        ({"preset": "BEST", "early_stopping": {"patience": 1}}, "early_stopping"),
        ({"preset": "BEST", "checkpoints": {"restore_best": True}}, "checkpoints.restore_best"),
        ({"preset": "BEST", "checkpoints": {"keep_best": True}}, "checkpoints.keep_best"),
    ],
)
def test_what_is_asked_of_held_out_rows_is_refused_where_there_are_none(given: dict[str, Any], field: str) -> None:
    parameters = resolve_parameters(given)
    with pytest.raises(InvalidField) as caught:
        fit_parameters(parameters, given, MODEL, WITHOUT_EVAL)
    assert caught.value.field == f"parameters.{field}"
    assert fit_parameters(parameters, given, MODEL, WITH_EVAL) == parameters


def test_what_only_a_preset_asks_gives_way_to_the_dataset_and_to_the_model() -> None:
    given = {"preset": "BEST"}
    parameters = resolve_parameters(given)
    assert parameters.checkpoints == CheckpointPolicy(keep_best=True, restore_best=True)
    fitted = fit_parameters(parameters, given, ModelFacts("mdl_1", 6, True), WITHOUT_EVAL)
    assert (fitted.evaluate_every_steps, fitted.early_stopping, fitted.sample_predictions) == (0, None, None)
    assert fitted.checkpoints == CheckpointPolicy()
    assert fitted.sampling.max_frames == 6
    assert fitted.preset is Preset.BEST
    assert fit_evaluation(parameters, given, 3) is parameters


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_gives_values_that_the_request_overrides(preset: Preset) -> None:
    known = PRESETS[preset]
    parameters = resolve_parameters({"preset": preset})
    assert parameters.preset is preset
    shown = given_from_proto(parameters_to_proto(parameters))
    for name in known.names:
        value: Any = known.values
        found: Any = shown
        for part in name.split("."):
            value, found = value[part], found[part]
        assert found == value, name
    assert len(known.description) > 40
    specification(parameters)
    own = resolve_parameters({"preset": preset, "lora": {"rank": 5}, "evaluate_every_steps": 9})
    assert (own.lora.rank, own.evaluate_every_steps, own.lora.alpha) == (5, 9, parameters.lora.alpha)
    # Counting by steps takes the place of the preset's epochs, and is no contradiction.
    stepped = resolve_parameters({"preset": preset, "optimization": {"max_steps": 7}})
    assert (stepped.optimization.epochs, stepped.optimization.max_steps) == (None, 7)


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize(
    "own",
    [
        {"evaluate_every_steps": 0},
        {"quantization": {"type": "NONE"}},
        {"lora": {"target_groups": ["LANGUAGE", "VISION"]}},
        {"base_sharing": "ON"},
    ],
)
def test_what_the_request_says_wins_over_what_a_preset_sets_beside_it(preset: Preset, own: dict[str, Any]) -> None:
    parameters = resolve_parameters({"preset": preset, **own})
    check_devices(Needs(), parameters)
    stated = json.loads(json.dumps(parameters.to_json()))
    for name, value in own.items():
        expected = {**stated[name], **value} if isinstance(value, dict) else value
        assert stated[name] == expected, name
    specification(parameters)


def test_what_a_preset_sets_is_kept_where_nothing_excludes_it() -> None:
    best = resolve_parameters({"preset": "BEST", "evaluate_every_steps": 0})
    assert (best.early_stopping, best.checkpoints.restore_best) == (None, False)
    assert (best.checkpoints.keep_best, best.lora.rank) == (False, 32)
    jetson = resolve_parameters({"preset": "JETSON_8GB", "quantization": {"type": "NONE"}})
    assert (jetson.quantization.quantize_vision, jetson.optimization.optimizer) == (False, Optimizer.ADAMW_8BIT)
    # What the request itself contradicts is refused as ever.
    for own, field in (
        ({"evaluate_every_steps": 0, "early_stopping": {"patience": 1}}, "early_stopping"),
        ({"quantization": {"type": "NONE", "quantize_vision": True}}, "quantization.quantize_vision"),
    ):
        for preset in Preset:
            with pytest.raises(InvalidField) as caught:
                resolve_parameters({"preset": preset, **own})
            assert caught.value.field == f"parameters.{field}"


def test_the_presets_are_those_of_the_contract_and_none_is_the_defaults() -> None:
    names = {name.removeprefix("PRESET_") for name in options_pb.Preset.DESCRIPTOR.values_by_name}
    assert names == {"UNSPECIFIED", *Preset}
    assert set(PRESETS) == set(Preset)
    assert resolve_parameters({}) == TrainingParameters()
    shown = parameters_to_proto(resolve_parameters({}))
    assert shown.preset == options_pb.PRESET_UNSPECIFIED
    assert shown.lora.initialization == options_pb.LORA_INITIALIZATION_DEFAULT
    assert shown.sampling.placement == options_pb.FRAME_PLACEMENT_EVEN
    assert shown.optimization.optimizer == pb.OPTIMIZER_ADAMW


def test_parameters_stored_before_an_option_existed_have_its_default() -> None:
    old = resolve_parameters({}).to_json()
    for name in ("use_dora", "initialization", "layer_patterns"):
        del old["lora"][name]
    del old["sampling"]["placement"], old["checkpoints"]["restore_best"]
    del old["preset"], old["early_stopping"], old["sample_predictions"]
    assert parameters_from_json(old) == TrainingParameters()
