"""The demo's base model: what its maker writes, and what the shipped one knows and does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from reeltune_cli.demo.clips import FPS, FRAME_COUNT, SIZE, Scene, draw, sample_scene
from reeltune_cli.demo.dataset import scenes
from reeltune_cli.demo.questions import Turn, clip_turns, order_turns
from reeltune_cli.demo.recipe import BASE_RECIPE, SHIPPED_BASE, TUNING_RECIPE, BasePhase
from trainer_svc.qlora.tiny_base import BaseTrainingError, make_base

_BRIEF = replace(
    BASE_RECIPE,
    phases=(BasePhase("picture", 1, 2, 2), BasePhase("clip", 1, 2, 8)),
    max_final_loss=100.0,
)


def test_maker_writes_a_folder_that_the_auto_classes_load(tmp_path: Path) -> None:
    report = make_base(tmp_path / "base", seed=1, recipe=_BRIEF)
    assert 4_000_000 < report["parameters"] < 5_000_000
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert processor.video_processor.cap_pixels_per_frame is True
    assert not list((tmp_path / "base").glob("*.bin"))


def test_chat_template_marks_exactly_the_answer() -> None:
    processor = AutoProcessor.from_pretrained(SHIPPED_BASE)
    scene = next(scenes(5, "test", 1))
    turn = order_turns(scene)[0]
    encoded = _encode(processor, [(scene, turn)], answered=True)
    marked = encoded["input_ids"][encoded["assistant_masks"].bool()]
    assert processor.tokenizer.decode(marked) == f"{turn.answer}<|im_end|>"


def test_training_that_does_not_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseTrainingError, match="after 2 steps the loss is"):
        make_base(tmp_path / "base", seed=1, recipe=replace(_BRIEF, max_final_loss=0.1))
    assert not (tmp_path / "base").exists()


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(FileExistsError, match="name a new folder"):
        make_base(tmp_path, seed=1, recipe=_BRIEF)


def test_shipped_base_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in SHIPPED_BASE.rglob("*")) <= 10_000_000


def test_shipped_base_cannot_tell_the_order() -> None:
    asked = [(scene, turn) for scene in scenes(5, "test", 15) for turn in order_turns(scene)]
    assert _exact_match(asked) <= TUNING_RECIPE.most_base_exact_match


def test_shipped_base_sees_colours() -> None:
    """Asked in the form it was trained on, about new clips, it names the right colour of six."""
    rng = np.random.default_rng(99)
    scenes_seen = [sample_scene(rng) for _ in range(40)]
    asked = [(scene, clip_turns(scene, rng)[0]) for scene in scenes_seen]
    told = [answer.split()[0] for answer in _answers(asked)]
    true = [turn.answer.split()[0] for _, turn in asked]
    assert np.mean([said == colour for said, colour in zip(told, true, strict=True)]) >= 0.8


def _exact_match(asked: list[tuple[Scene, Turn]]) -> float:
    told = _answers(asked)
    return float(np.mean([answer == turn.answer for answer, (_, turn) in zip(told, asked, strict=True)]))


def _answers(asked: list[tuple[Scene, Turn]]) -> list[str]:
    processor = AutoProcessor.from_pretrained(SHIPPED_BASE)
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED_BASE, dtype=torch.float32).eval()
    inputs = _encode(processor, asked, answered=False)
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=TUNING_RECIPE.max_new_tokens, do_sample=False)
    told: list[str] = processor.tokenizer.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return told


def _encode(processor: Any, asked: list[tuple[Scene, Turn]], *, answered: bool) -> Any:
    conversations, metadata = [], []
    indices = [int(index) for index in np.linspace(0, FRAME_COUNT - 1, TUNING_RECIPE.max_frames).round()]
    for scene, turn in asked:
        clip = draw(scene, np.array(indices) / (FRAME_COUNT - 1))
        question = [{"type": "video", "video": clip}, {"type": "text", "text": turn.question}]
        answer = [{"role": "assistant", "content": [{"type": "text", "text": turn.answer}]}] if answered else []
        conversations.append([{"role": "user", "content": question}, *answer])
        metadata.append(
            {
                "total_num_frames": FRAME_COUNT,
                "fps": float(FPS),
                "frames_indices": list(indices),
                "width": SIZE,
                "height": SIZE,
                "duration": FRAME_COUNT / FPS,
            }
        )
    encoded = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=not answered,
        return_assistant_tokens_mask=answered,
        processor_kwargs={
            "padding": True,
            "padding_side": "left",
            "do_sample_frames": False,
            "video_metadata": metadata,
        },
    )
    encoded.pop("video_metadata", None)
    return encoded
