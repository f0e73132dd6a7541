from __future__ import annotations

from pathlib import Path

import pytest
from reeltune.scheduler.v1 import training_options_pb2 as options_pb
from reeltune.scheduler.v1 import training_parameters_pb2 as pb
from reeltune.scheduler.v1.speed_parameters_pb2 import ENCODER_CACHE_OFF

from reeltune_cli.client import ClientError
from reeltune_cli.commands.parameters import read_parameters


def test_settings_change_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text('{"lora": {"rank": 4, "alpha": 8}, "optimization": {"learningRate": 0.001}}')
    parameters = read_parameters(
        file,
        [
            "lora.rank=8",
            "quantization.type=QUANTIZATION_TYPE_NONE",
            'lora.target_groups=["MODULE_GROUP_LANGUAGE","MODULE_GROUP_VISION"]',
            "optimization.gradient_checkpointing=false",
            "checkpoint_every_steps=0",
        ],
    )
    assert (parameters.lora.rank, parameters.lora.alpha) == (8, 8)
    assert list(parameters.lora.target_groups) == [pb.MODULE_GROUP_LANGUAGE, pb.MODULE_GROUP_VISION]
    assert parameters.quantization.type == pb.QUANTIZATION_TYPE_NONE
    assert parameters.optimization.learning_rate == 0.001
    assert parameters.optimization.HasField("gradient_checkpointing")
    assert parameters.HasField("checkpoint_every_steps")
    assert not parameters.HasField("log_every_steps")


def test_names_of_choices_need_neither_prefix_nor_capitals() -> None:
    parameters = read_parameters(
        None,
        [
            "lora.target_groups=vision,LANGUAGE",
            "lora.temporal_groups=MODULE_GROUP_VISION",
            "optimization.optimizer=adamw_8bit",
            "quantization.type=none",
            "speed.encoder_cache=off",
        ],
    )
    assert list(parameters.lora.target_groups) == [pb.MODULE_GROUP_VISION, pb.MODULE_GROUP_LANGUAGE]
    assert list(parameters.lora.temporal_groups) == [pb.MODULE_GROUP_VISION]
    assert parameters.optimization.optimizer == pb.OPTIMIZER_ADAMW_8BIT
    assert parameters.quantization.type == pb.QUANTIZATION_TYPE_NONE
    assert parameters.speed.encoder_cache == ENCODER_CACHE_OFF


def test_presets_and_starts_are_named_as_people_write_them() -> None:
    """Also those that are refused: the scheduler knows why."""
    patterns = 'lora.layer_patterns=[{"pattern": "*.q_proj", "rank": 4}]'
    parameters = read_parameters(None, ["preset=jetson-8gb", "lora.initialization=pissa", patterns])
    assert parameters.preset == options_pb.PRESET_JETSON_8GB
    assert parameters.lora.initialization == options_pb.LORA_INITIALIZATION_PISSA
    assert parameters.lora.layer_patterns[0].rank == 4


def test_a_choice_that_is_not_offered_is_answered_with_those_that_are() -> None:
    with pytest.raises(ClientError, match="there is no Optimizer 'sgd'") as caught:
        read_parameters(None, ["optimization.optimizer=sgd"])
    assert caught.value.next_step == "use one of ADAMW, ADAMW_8BIT, LION_8BIT, PAGED_ADAMW, PAGED_ADAMW_8BIT"


@pytest.mark.parametrize(
    "setting",
    [
        "rank",
        "=8",
        "lora.rang=8",
        "lora.rank=many",
        "lora.rank.deep=8",
        "lora.rank=1.5",
        "quantization.type=NF5",
        "lora=8",
    ],
)
def test_refuses_settings_that_are_none(setting: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_parameters(None, ["lora.rank=8", setting] if "deep" in setting else [setting])
    assert caught.value.reason == "PARAMETERS_INVALID"
    assert caught.value.next_step


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_refuses_files_that_hold_no_object(tmp_path: Path, content: str) -> None:
    file = tmp_path / "parameters.json"
    file.write_text(content)
    with pytest.raises(ClientError, match=r"parameters\.json"):
        read_parameters(file, [])
