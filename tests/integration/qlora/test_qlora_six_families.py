"""Six architectures, each trained in NF4 from a tiny random model with a processor of its own kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from batches import CLIP, decoded, question
from published_templates import PUBLISHED
from recording_run import RecordingRun
from tiny_families import save_internvl, save_llava_onevision, save_smolvlm, save_video_llama_3
from tiny_models import row, save_qwen2_5_vl, save_qwen3_vl, write_clip

from trainer_svc.qlora.chat_labels import render
from trainer_svc.qlora.data_processor import IGNORED, DataProcessor
from trainer_svc.qlora.dataset_rows import Sample, Turn
from trainer_svc.qlora.families import FAMILIES
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.messages import Completed
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.qlora_injector import check_gradients, inject, trainable
from trainer_svc.qlora.spec import LoraSpec, QuantizationSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

CPU = torch.device("cpu")
SAVE: dict[str, Callable[[Path], Path]] = {
    "internvl": save_internvl,
    "llava_onevision": save_llava_onevision,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen3_vl": save_qwen3_vl,
    "smolvlm": save_smolvlm,
    "video_llama_3": save_video_llama_3,
}
GOLDEN = {
    "internvl": [6.2018, 4.9257, 3.6223, 2.9204],
    "llava_onevision": [7.4159, 5.2445, 3.8207, 3.094],
    "qwen2_5_vl": [6.8022, 4.7667, 3.1745, 2.6133],
    "qwen3_vl": [6.7482, 4.2723, 2.661, 1.7187],
    "smolvlm": [7.5204, 5.7725, 4.1255, 3.2783],
    "video_llama_3": [6.3593, 4.1602, 2.942, 2.5223],
}
"""Losses of four steps at seed 42 on one thread. When they move, training has changed, or a library it stands on."""
EVERYWHERE = LoraSpec(rank=4, dropout=0.0, target_groups=("language", "projector", "vision"))
STACKED = {"smolvlm", "llava_onevision"}


def test_every_family_that_is_known_has_a_tiny_model() -> None:
    """Parts and processor of a qwen2_vl are those of a qwen2_5_vl."""
    assert set(SAVE) == set(GOLDEN) == set(FAMILIES) - {"qwen2_vl"}


@pytest.fixture(scope="module", params=sorted(SAVE))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[family](tmp_path_factory.mktemp(family))


def test_it_trains_to_the_losses_known(
    family: str, model: Path, new_run: Callable[..., RecordingRun], spec: TrainingSpec
) -> None:
    run = new_run(model=model)
    changes = ["lora.target_groups=language,projector,vision", "optimization.learning_rate=0.002"]
    train(run, spec.with_overrides([*changes, "optimization.max_steps=4", "checkpoint_every_steps=0"]))
    assert isinstance(run.last, Completed)
    assert list(run.series("loss").values()) == pytest.approx(GOLDEN[family], rel=1e-2)


def test_only_its_language_model_is_in_four_bits_and_everything_asked_for_learns(family: str, model: Path) -> None:
    base = load_base_model(model, QuantizationSpec())
    assert base.family.name == family
    assert not base.family.probed
    assert base.audit.linears["language"] == (14, 0)
    assert base.audit.linears["vision"][0] == base.audit.linears["projector"][0] == base.audit.linears["head"][0] == 0
    processor = DataProcessor(base.processor)
    batch = processor.collate([processor.encode(question(), [decoded()])])
    with torch.no_grad():
        before = base.model(**batch.inputs, use_cache=False).logits
        tuned, report = inject(base, EVERYWHERE, seed=0, gradient_checkpointing=True)
        assert torch.equal(before, tuned.eval()(**batch.inputs, use_cache=False).logits)
    assert report.layers == {part: sum(base.audit.linears[part]) for part in ("language", "projector", "vision")}
    for value in trainable(tuned).values():
        torch.nn.init.normal_(value, std=0.1)
    tuned.train()
    summed_loss(tuned, batch, CPU).backward()
    check_gradients(tuned)
    idle = [name for name, value in trainable(tuned).items() if not value.grad.abs().max() > 0]
    assert idle == []


def test_only_the_answer_is_learned_and_frames_have_their_true_times(family: str, model: Path) -> None:
    base = load_base_model(model, QuantizationSpec(bits=16))
    processor = DataProcessor(base.processor)
    encoded = processor.encode(question(answer="to the left"), [decoded((0.0, 61.5), fps=2.0)])
    labels = encoded.labels[0]
    assert processor.text_of(labels[labels != IGNORED].tolist()) == "to the left<|im_end|>"
    text = processor.text_of(encoded.inputs["input_ids"][0].tolist())
    told = {
        "smolvlm": ("Frame from 00:00", "Frame from 01:01"),
        "video_llama_3": ("Time 0.0s", "Time 61.5s"),
        "qwen3_vl": ("<30.8 seconds>",),
    }
    for words in told.get(family, ()):
        assert words in text
    single = processor.encode_prompt(question().turns[:1], [decoded((61.5,), fps=2.0)])
    told["qwen3_vl"] = ("<61.5 seconds>",)
    for words in told.get(family, ())[-1:]:
        assert words in processor.text_of(single["input_ids"][0].tolist())


def test_its_published_template_teaches_to_answer_its_prompt_and_to_stop(family: str, model: Path) -> None:
    template, method, learned = PUBLISHED[family]
    loaded = load_processor(model)
    loaded.chat_template = loaded.tokenizer.chat_template = template
    first = (Turn("user", (CLIP, "what moves?")), Turn("assistant", ("left",)))
    turns = (*first, Turn("user", ("and then?",)), Turn("assistant", ("up ünd down",)))
    assert render(loaded, turns, "it").method == method
    processor = DataProcessor(loaded)
    encoded = processor.encode(Sample("s", "train", turns), [decoded()])
    ids, labels = encoded.inputs["input_ids"][0], encoded.labels[0]
    answers = learned.format("left") + learned.format("up ünd down")
    assert processor.text_of(labels[labels != IGNORED].tolist()) == answers
    for count in (1, 3):
        prompt = processor.encode_prompt(turns[:count], [decoded()])["input_ids"][0]
        assert torch.equal(ids[: len(prompt)], prompt)
        assert labels[len(prompt) - 1] == IGNORED != labels[len(prompt)]


def test_clips_of_unlike_length_are_learned_as_one_by_one(family: str, model: Path) -> None:
    base = load_base_model(model, QuantizationSpec())
    processor = DataProcessor(base.processor)
    samples = [
        processor.encode(question("s1", "left"), [decoded((0.0, 0.5, 1.0, 1.5), seed=1)]),
        processor.encode(question("s2", "to the right"), [decoded((0.0, 0.5), seed=2)]),
    ]
    batches = processor.collate_alike(samples)
    assert len(batches) == (2 if family in STACKED else 1)
    assert [name for batch in batches for name in batch.sample_ids] == ["s1", "s2"]
    with torch.no_grad():
        together = sum(float(summed_loss(base.model, batch, CPU)) for batch in batches)
        alone = sum(float(summed_loss(base.model, processor.collate([sample]), CPU)) for sample in samples)
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("family", sorted(STACKED), indirect=False)
def test_a_run_takes_clips_of_unlike_length(family: str, tmp_path: Path, spec: TrainingSpec) -> None:
    data = tmp_path / "data"
    rows = []
    for index, frames in enumerate((2, 3, 3, 12)):
        write_clip(data / "clips" / f"{index}.mp4", frames=frames)
        rows.append(row(f"s{index}", f"{index}.mp4", "what?", "x" * (index + 1), max_frames=frames))
    (data / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    run = RecordingRun(SAVE[family](tmp_path / "model"), data, tmp_path / "out")
    train(run, spec.with_overrides(["optimization.batch_size=4", "optimization.max_steps=2"]))
    assert isinstance(run.last, Completed)
