"""What an estimate counts, against what training makes of the same clips: six families, each with its own processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from batches import question
from safetensors import safe_open
from tiny_families import save_internvl, save_llava_onevision, save_smolvlm, save_video_llama_3
from tiny_models import save_qwen2_5_vl, save_qwen3_vl

from catalog_svc.domain.frame_rule import frame_rule
from catalog_svc.domain.model import ModelFacts
from catalog_svc.domain.model_parts import model_parts, vocabulary_size
from catalog_svc.rpc.convert_model import model_facts_to_proto
from scheduler_svc.clients.catalog_shapes import model_shape_from_proto
from scheduler_svc.domain.adapter_parameters import LoraParameters, ModuleGroup
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape, RowShape, ShapeClip
from scheduler_svc.domain.estimate.memory import adapter_parameters
from scheduler_svc.domain.estimate.tokens import clip_tokens, count_tokens
from scheduler_svc.domain.parameters import SamplingParameters
from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.qlora_injector import inject
from trainer_svc.qlora.spec import LoraSpec, QuantizationSpec

SAVE: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": save_qwen3_vl,
    "qwen2_5_vl": save_qwen2_5_vl,
    "smolvlm": save_smolvlm,
    "llava_onevision": save_llava_onevision,
    "internvl": save_internvl,
    "video_llama_3": save_video_llama_3,
}


@pytest.fixture(scope="module", params=SAVE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(
    ("frames", "width", "height"), [(1, 64, 64), (2, 64, 64), (8, 160, 90), (7, 44, 36), (16, 24, 16)]
)
def test_as_many_visual_tokens_are_counted_as_the_processor_makes(
    model: Path, frames: int, width: int, height: int
) -> None:
    shape = shape_of(model)
    assert shape.frame_rule is not None
    processor = DataProcessor(load_processor(model))
    inputs = processor.encode(question(), [moving_clip(frames, width, height)]).inputs["input_ids"][0].tolist()
    made = sum(token in processor.visual_token_ids for token in inputs)
    clip = ShapeClip(width, height, frames, 8.0)
    counted = clip_tokens(shape.frame_rule, clip, SamplingParameters(max_frames=frames))
    if shape.frame_rule.is_upper_bound:
        assert made <= counted
    else:
        assert made == counted
    rows = DatasetShape((RowShape(1, (clip,)),), 1, max_text=40, mean_text=40, max_answer=10, mean_answer=10)
    counts = count_tokens(shape, rows, SamplingParameters(max_frames=frames))
    assert counts is not None
    assert 0.6 <= counts.largest.total / len(inputs) <= 2.5, "words are estimated, and roughly"


def test_as_many_parameters_are_counted_as_an_adapter_has(model: Path) -> None:
    groups = tuple(ModuleGroup)
    counted = adapter_parameters(shape_of(model), LoraParameters(rank=4, target_groups=groups))
    base = load_base_model(model, QuantizationSpec())
    lora = LoraSpec(rank=4, target_groups=("language", "projector", "vision"))
    _, report = inject(base, lora, seed=0, gradient_checkpointing=False)
    assert counted == report.parameters


def shape_of(folder: Path) -> ModelShape:
    """The model as the scheduler hears of it from the catalog."""
    config = json.loads((folder / "config.json").read_text())
    processor = json.loads((folder / "processor_config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = [(name, tuple(file.get_slice(name).get_shape())) for name in file.keys()]  # noqa: SIM118  no mapping
    facts = ModelFacts(
        *(config["model_type"], "", 0, 0, 0, 2048, 0, True, ""),
        parts=model_parts(tensors),
        frame_rule=frame_rule(config, processor, processor["video_processor"]),
        vocabulary_size=vocabulary_size(tensors),
    )
    shape = model_shape_from_proto(model_facts_to_proto(facts))
    assert shape is not None
    return shape


def moving_clip(frames: int, width: int, height: int) -> DecodedFrames:
    """Noise, so that no frame is like another one."""
    pictures = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), np.uint8)
    times = tuple(number / 8 for number in range(frames))
    return DecodedFrames(pictures, times, frames, frames, 8.0, frames / 8, tuple(range(frames)))
