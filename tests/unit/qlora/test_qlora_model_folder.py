from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer_svc.qlora.errors import ModelRefusedError
from trainer_svc.qlora.families import FAMILIES
from trainer_svc.qlora.model_folder import check_model_folder, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 7, "trust_remote_code": 8}}}')
    (tmp_path / "README.md").write_text("a model")
    (tmp_path / ".gitattributes").write_text("")
    return tmp_path


def test_a_folder_of_data_is_accepted(folder: Path) -> None:
    assert check_model_folder(folder)["model_type"] == "qwen3_vl"


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "modeling_x.py", "sub/optimizer.pkl", "x.onnx", "l.so"]
)
def test_pickles_and_code_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelRefusedError, match=name.replace(".", r"\.")):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"model_type": "x", "auto_map": {"AutoModel": "m.M"}}),
        ("config.json", {"model_type": "x", "text_config": {"trust_remote_code": True}}),
        ("processor_config.json", {"nested": [{"auto_map": {"AutoProcessor": "p.P"}}]}),
    ],
)
def test_a_request_to_run_code_anywhere_in_its_json_is_refused(folder: Path, file: str, content: object) -> None:
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelRefusedError, match=file.replace(".", r"\.")):
        check_model_folder(folder)


def test_escaped_keys_do_not_slip_through(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "x", "auto\\u005fmap": {"AutoModel": "m.M"}}')
    with pytest.raises(ModelRefusedError, match="auto_map"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "model_type"),
        ("config.json", '{"model_type": "x", "quantization_config": {"quant_method": "awq"}}', "already quantised"),
        ("tokenizer.json", "[" * 100_000, "not JSON"),
    ],
)
def test_broken_folders_are_refused(folder: Path, file: str, content: str, words: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ModelRefusedError, match=words):
        check_model_folder(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_incomplete_folders_are_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelRefusedError):
        check_model_folder(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match="no folder"):
        check_model_folder(tmp_path / "absent")


def test_the_fingerprint_changes_with_weights_and_config_only(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "README.md").write_text("another text")
    assert fingerprint(folder) == before
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(folder) != before


def test_the_projector_inside_the_tower_is_not_the_tower() -> None:
    family = FAMILIES["qwen3_vl"]
    assert family.group_of("model.visual.blocks.0.attn.qkv") == "vision"
    assert family.group_of("model.visual.merger.linear_fc1") == "projector"
    assert family.group_of("model.visual.deepstack_merger_list.0.linear_fc1") == "projector"
    assert family.group_of("model.language_model.layers.0.mlp.up_proj") == "language"
    assert family.group_of("model.visualizer") is None
    assert family.group_of("lm_head") is None


def test_skipped_modules_are_full_names_and_name_the_head() -> None:
    for family in FAMILIES.values():
        skipped = family.skip_modules(quantize_vision=False)
        assert "lm_head" in skipped
        assert all(name.startswith("model.") for name in skipped if name != "lm_head")
        assert not set(family.vision) & set(family.skip_modules(quantize_vision=True))
