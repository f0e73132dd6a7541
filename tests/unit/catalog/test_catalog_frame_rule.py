"""What a stranger's model files say of frames and layers: whatever stands there, the entry can be read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from catalog_svc.domain.frame_rule import FrameBudget, FrameRule, frame_rule
from catalog_svc.domain.model import ModelFacts
from catalog_svc.domain.model_parts import ModelPart, PartKind, model_parts, vocabulary_size
from catalog_svc.rpc.convert_model import model_facts_to_proto

FACTS = ModelFacts("qwen3_vl", "Qwen3VL", 1, 2, 3, 4, 0, True, "f")
LAYER = "model.language_model.layers.0.self_attn.q_proj.weight"
VISIBLE = "model.language_model.embed_tokens.weight"


@pytest.mark.parametrize("number", [1025, 10**9, 1 << 41, 1 << 400])
@pytest.mark.parametrize("name", ["patch_size", "temporal_patch_size", "merge_size"])
def test_a_rule_with_numbers_of_no_model_is_not_known(name: str, number: int) -> None:
    assert frame_rule({"model_type": "qwen3_vl"}, {}, {}) is not None
    assert frame_rule({"model_type": "qwen3_vl"}, {}, {name: number}) is None


@pytest.mark.parametrize(
    ("kind", "config", "processor"),
    [
        ("smolvlm", {"scale_factor": 1 << 400}, {"image_seq_len": 64}),
        ("smolvlm", {}, {"image_seq_len": 1 << 400}),
        ("llava_onevision", {}, {"num_image_tokens": 1 << 400}),
        ("internvl", {"downsample_ratio": 1e-300}, {"image_seq_length": 64}),
    ],
)
def test_nor_is_one_with_more_tokens_than_any_model_has(
    kind: str, config: dict[str, Any], processor: dict[str, Any]
) -> None:
    assert frame_rule({"model_type": kind, **config}, processor, {}) is None


def test_matrices_that_weigh_nothing_are_no_layers() -> None:
    empty = [(LAYER, (0, 1 << 40)), (LAYER.replace("0", "1"), (1 << 40, 0)), (VISIBLE, (1 << 70, 0))]
    (language,) = model_parts(empty)
    assert (language.linear_layers, language.width, language.linear_inputs, language.linear_outputs) == (0, 0, 0, 0)
    assert vocabulary_size(empty) == 0
    assert vocabulary_size([(VISIBLE, (512, 64))]) == 512


def test_what_was_stored_before_such_numbers_were_refused_can_be_read() -> None:
    part = ModelPart(PartKind.LANGUAGE, 0, 1, 0, (), linear_inputs=1 << 70, width=1 << 40)
    rule = FrameRule(FrameBudget.ALL_FRAMES, patch_size=1 << 39, frames_per_patch=10**9)
    shown = model_facts_to_proto(replace(FACTS, parts=(part,), frame_rule=rule, vocabulary_size=1 << 70))
    assert not shown.HasField("frame_rule")
    assert (shown.parts[0].width, shown.parts[0].linear_inputs, shown.vocabulary_size) == (0, 0, 0)
