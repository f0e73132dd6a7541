from __future__ import annotations

import pytest

from catalog_svc.domain.chat_template import ChatTemplateFacts, chat_template_facts
from catalog_svc.domain.model_parts import PartKind, model_memory, model_parts

QWEN_OF_TODAY = {
    "model.visual.patch_embed.proj.weight": (64, 3, 2, 8, 8),
    "model.visual.pos_embed.weight": (64, 64),
    "model.visual.blocks.0.attn.qkv.weight": (192, 64),
    "model.visual.blocks.0.attn.qkv.bias": (192,),
    "model.visual.merger.linear_fc1.weight": (256, 256),
    "model.language_model.embed_tokens.weight": (512, 64),
    "model.language_model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.language_model.layers.0.mlp.experts.gate_up_proj": (4, 64, 64),
    "model.language_model.norm.weight": (64,),
    "lm_head.weight": (512, 64),
}


def test_parts_are_told_by_the_names_of_tensors() -> None:
    vision, projector, language, head = model_parts(QWEN_OF_TODAY.items())
    assert vision.kind is PartKind.VISION
    assert vision.parameter_count == 64 * 3 * 2 * 64 + 64 * 64 + 192 * 64 + 192
    assert (vision.linear_layers, vision.lora_modules) == (1, ("qkv",)), "no table, no convolution"
    assert (projector.kind, projector.lora_modules) == (PartKind.PROJECTOR, ("linear_fc1",))
    assert (language.linear_layers, language.linear_parameters) == (1, 64 * 64), (
        "experts in one tensor are no linear layer"
    )
    assert (head.kind, head.lora_modules, head.linear_parameters) == (PartKind.HEAD, (), 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("visual.blocks.0.mlp.fc1.weight", PartKind.VISION),
        ("visual.merger.mlp.0.weight", PartKind.PROJECTOR),
        ("model.layers.0.mlp.up_proj.weight", PartKind.LANGUAGE),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", PartKind.VISION),
        ("multi_modal_projector.linear_1.weight", PartKind.PROJECTOR),
        ("language_model.model.layers.0.mlp.up_proj.weight", PartKind.LANGUAGE),
        ("language_model.lm_head.weight", PartKind.HEAD),
        ("image_newline", PartKind.LANGUAGE),
    ],
)
def test_older_checkpoints_have_their_parts_too(name: str, kind: PartKind) -> None:
    (part,) = model_parts([(name, (4, 4))])
    assert part.kind is kind


def test_memory_follows_the_formula_that_the_contract_states() -> None:
    parts = model_parts(
        [("model.language_model.layers.0.mlp.up_proj.weight", (1000, 1000)), ("lm_head.weight", (10, 10))]
    )
    memory = model_memory(parts)
    assert memory.bytes_16bit == 2 * 1_000_100
    assert memory.bytes_4bit == pytest.approx(1_000_000 * 4.127 / 8 + 2 * 100, rel=1e-4)
    assert model_memory(()).bytes_4bit == 0


MARKED, PLAIN = "{%- generation -%}{% endgeneration %}", "{{ messages }} generation"


@pytest.mark.parametrize(
    ("file", "parsed", "facts"),
    [
        (None, {}, (False, False)),
        (MARKED, {}, (True, True)),
        (PLAIN, {"tokenizer_config.json": {"chat_template": MARKED}}, (True, False)),
        (None, {"tokenizer_config.json": {"chat_template": MARKED}}, (True, True)),
        (None, {"chat_template.json": {"chat_template": PLAIN}}, (True, False)),
        (None, {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": MARKED}]}}, (True, True)),
        (None, {"tokenizer_config.json": {"chat_template": [{"name": "tool", "template": MARKED}]}}, (False, False)),
        (None, {"tokenizer_config.json": {"chat_template": [1, {"name": "default", "template": 7}]}}, (False, False)),
        (None, {"tokenizer_config.json": []}, (False, False)),
    ],
)
def test_chat_templates_are_found_where_they_may_be(
    file: str | None, parsed: dict[str, object], facts: tuple[bool, bool]
) -> None:
    assert chat_template_facts(file, parsed) == ChatTemplateFacts(*facts)
