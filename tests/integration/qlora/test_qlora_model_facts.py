"""What the catalog says of a model from its headers alone, against the model that training loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
from safetensors import safe_open
from tiny_families import save_internvl, save_llava_onevision, save_smolvlm, save_video_llama_3
from tiny_models import save_qwen2_5_vl, save_qwen3_vl
from torch import nn

from catalog_svc.domain.model_parts import PartKind, model_parts, vocabulary_size
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import QuantizationSpec

SAVE: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": save_qwen3_vl,
    "qwen2_5_vl": save_qwen2_5_vl,
    "smolvlm": save_smolvlm,
    "llava_onevision": save_llava_onevision,
    "internvl": save_internvl,
    "video_llama_3": save_video_llama_3,
}


@pytest.mark.parametrize("family", SAVE)
def test_headers_tell_parts_and_layers_as_training_finds_them(family: str, tmp_path: Path) -> None:
    folder = SAVE[family](tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = [(name, tuple(file.get_slice(name).get_shape())) for name in file.keys()]  # noqa: SIM118  no mapping
    parts = {part.kind.value.lower(): part for part in model_parts(shapes)}
    base = load_base_model(folder, QuantizationSpec())

    assert sum(part.parameter_count for part in parts.values()) == base.audit.parameters
    for group in ("vision", "projector", "language"):
        linears = {
            name: module
            for name, module in base.model.named_modules()
            if isinstance(module, nn.Linear) and base.family.group_of(name) == group
        }
        part = parts[group]
        assert part.linear_layers == len(linears), group
        assert part.linear_inputs == sum(module.in_features for module in linears.values()), group
        assert part.linear_outputs == sum(module.out_features for module in linears.values()), group
        assert part.lora_modules == tuple(sorted({name.rpartition(".")[2] for name in linears})), group
    quantised = [m for m in base.model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    weights = sum(module.in_features * module.out_features for module in quantised)
    assert parts[PartKind.LANGUAGE.value.lower()].linear_parameters == weights
    assert (parts["language"].layer_count, parts["language"].width) == (2, 64)
    assert (parts["vision"].layer_count, parts["vision"].width) == (2, 64)
    assert vocabulary_size(shapes) == base.model.get_input_embeddings().num_embeddings
