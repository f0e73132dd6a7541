"""The registry against transformers itself: every family's parts are where it says, in a model without weights."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from trainer_svc.qlora.families import FAMILIES, find_family
from trainer_svc.qlora.qlora_injector import target_pattern

CONFIGS = {
    "qwen3_vl": "Qwen3VLConfig",
    "qwen2_5_vl": "Qwen2_5_VLConfig",
    "qwen2_vl": "Qwen2VLConfig",
    "smolvlm": "SmolVLMConfig",
    "llava_onevision": "LlavaOnevisionConfig",
    "internvl": "InternVLConfig",
    "video_llama_3": "VideoLlama3Config",
}


@pytest.fixture(params=sorted(CONFIGS))
def skeleton(request: pytest.FixtureRequest) -> Any:
    config = getattr(transformers, CONFIGS[request.param])()
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def test_the_registry_is_covered() -> None:
    assert CONFIGS.keys() == FAMILIES.keys()


def test_every_linear_layer_belongs_to_a_part_or_is_the_head(skeleton: Any) -> None:
    family = find_family(skeleton.config.model_type, skeleton)
    assert not family.probed
    linears = {name for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    groups = {name: family.group_of(name) for name in linears}
    assert [name for name, group in groups.items() if group is None] == [family.head]
    assert set(groups.values()) == {"language", "vision", "projector", None}


def test_targets_of_a_part_match_its_linear_layers_only(skeleton: Any) -> None:
    family = find_family(skeleton.config.model_type, skeleton)
    for group in ("language", "vision", "projector"):
        pattern = target_pattern(skeleton, family, (group,))
        matched = {name for name, _ in skeleton.named_modules() if _matches(pattern, name)}
        assert matched == {
            name
            for name, module in skeleton.named_modules()
            if isinstance(module, nn.Linear) and family.group_of(name) == group
        }


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None
