from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from batches import CLIP, decoded, one_batch, question
from tiny_models import TEMPLATE_WITH_MARKS, TEMPLATE_WITHOUT_MARKS
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor

from trainer_svc.qlora.chat_labels import ends_with, how_answers_are_found, render
from trainer_svc.qlora.data_processor import IGNORED, DataProcessor, EncodedSample
from trainer_svc.qlora.dataset_rows import Sample, Turn
from trainer_svc.qlora.errors import BadDataError, ModelRefusedError
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import QuantizationSpec

Make = Callable[..., DataProcessor]


@pytest.fixture
def make(qwen3: Any) -> Make:
    loaded = AutoProcessor.from_pretrained(qwen3)

    def made(template: str | None = TEMPLATE_WITH_MARKS, **options: Any) -> DataProcessor:
        processor = copy.deepcopy(loaded)
        processor.chat_template = processor.tokenizer.chat_template = template
        return DataProcessor(processor, **options)

    return made


def learned(processor: DataProcessor, encoded: EncodedSample) -> str:
    labels = encoded.labels[0]
    return str(processor._processor.tokenizer.decode(labels[labels != IGNORED]))


def text_of(processor: DataProcessor, ids: torch.Tensor) -> str:
    return str(processor._processor.tokenizer.decode(ids))


@pytest.mark.parametrize("template", [TEMPLATE_WITH_MARKS, TEMPLATE_WITHOUT_MARKS], ids=["marks", "prefix"])
def test_exactly_the_assistants_turn_is_learned(make: Make, template: str) -> None:
    processor = make(template)
    encoded = processor.encode(question(answer="left"), [decoded()])
    assert learned(processor, encoded) == "left<|im_end|>"
    ids, labels = encoded.inputs["input_ids"][0], encoded.labels[0]
    assert torch.equal(ids[labels != IGNORED], labels[labels != IGNORED])


@pytest.mark.parametrize("template", [TEMPLATE_WITH_MARKS, TEMPLATE_WITHOUT_MARKS], ids=["marks", "prefix"])
def test_every_answer_of_a_conversation_with_two_clips_is_learned(make: Make, template: str) -> None:
    processor = make(template)
    turns = (
        Turn("system", ("be brief",)),
        Turn("user", (CLIP, "first?")),
        Turn("assistant", ("left",)),
        Turn("user", (CLIP, "and this?")),
        Turn("assistant", ("up ünd down",)),
    )
    encoded = processor.encode(Sample("s", "train", turns), [decoded(), decoded((0.0, 0.5), seed=3)])
    assert learned(processor, encoded) == "left<|im_end|>up ünd down<|im_end|>"


def test_a_token_that_begins_every_text_is_there_once(make: Make) -> None:
    """The chat template writes it, and the tokenizer would once more."""
    processor = make("{{ bos_token }}" + TEMPLATE_WITH_MARKS)
    tokenizer = processor._processor.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    assert tokenizer("a")["input_ids"][0] == begin
    for ids in (
        processor.encode(question(answer="left"), [decoded()]).inputs["input_ids"],
        processor.encode_prompt(question().turns[:1], [decoded()])["input_ids"],
    ):
        assert ids[0].tolist().count(begin) == 1


def test_both_ways_of_masking_agree_token_by_token(make: Make) -> None:
    one, two = (
        make(template).encode(question(), [decoded()]) for template in (TEMPLATE_WITH_MARKS, TEMPLATE_WITHOUT_MARKS)
    )
    assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    assert torch.equal(one.labels, two.labels)


def test_the_prompt_holds_the_frames_true_times(make: Make) -> None:
    processor = make()
    # Uneven: index over frame rate would give other times. Qwen3-VL writes the mean time of two frames.
    encoded = processor.encode(question(), [decoded((0.2, 0.4, 3.0, 7.4), fps=2.0)])
    text = text_of(processor, encoded.inputs["input_ids"][0])
    assert "<0.3 seconds>" in text
    assert "<5.2 seconds>" in text


@pytest.mark.parametrize(
    ("times", "fps", "seconds"),
    [
        # 4 of 16 frames of a clip of 2 s: 2 frames a second, so a patch of two frames is 1 s.
        ((0.0, 0.625, 1.25, 1.875), 8.0, 1.0),
        # As Qwen counts: the clip's 10 s shared out among its frames, although these two are 9.9 s apart.
        ((0.0, 9.9), 10.0, 10.0),
    ],
)
def test_qwen2_5_gets_the_seconds_between_its_temporal_patches(
    qwen2_5: Any, times: tuple[float, ...], fps: float, seconds: float
) -> None:
    processor = DataProcessor(AutoProcessor.from_pretrained(qwen2_5))
    encoded = processor.encode(question(), [decoded(times, fps=fps)])
    assert [float(value) for value in encoded.inputs["second_per_grid_ts"]] == pytest.approx([seconds])


def test_a_template_without_anything_for_the_assistant_is_an_error_naming_the_sample(make: Make) -> None:
    # Of an answer it renders the header only.
    template = TEMPLATE_WITHOUT_MARKS.replace("<|im_end|>", "{{ '<|im_end|>' if m['role'] != 'assistant' }}").replace(
        "{{ c['text'] }}", "{{ c['text'] if m['role'] != 'assistant' }}"
    )
    with pytest.raises(BadDataError, match="sample s1: no token"):
        make(template).encode(question(), [decoded()])


_SPOILT_MARKS = {
    "no end": TEMPLATE_WITH_MARKS.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"),
    "late": TEMPLATE_WITH_MARKS.replace("{% generation %}", "{{ ' ' }}{% generation %}"),
    "none": TEMPLATE_WITH_MARKS.replace("'assistant' %}{% gen", "'nobody' %}{% gen"),
}


@pytest.mark.parametrize("kind", sorted(_SPOILT_MARKS))
def test_marks_without_an_end_or_away_from_the_prompt_are_not_used(make: Make, kind: str) -> None:
    processor = make(_SPOILT_MARKS[kind])
    rendered = render(processor._processor, question(answer="left").turns, "it")
    assert rendered.method == "prompts"
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        " left<|im_end|>" if kind == "late" else "left<|im_end|>"
    ]
    assert "marks are not used" in how_answers_are_found(processor._processor, rendered)


def test_answers_are_told_to_end_as_generation_ends(make: Make) -> None:
    tokenizer = make()._processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for template, ends in ((TEMPLATE_WITH_MARKS, True), (TEMPLATE_WITHOUT_MARKS.replace("<|im_end|>", ""), False)):
        processor = make(template)._processor
        rendered = render(processor, question().turns, "it")
        assert ends_with(processor, rendered, [end]) is ends
        assert not ends_with(processor, rendered, [tokenizer.pad_token_id])


def test_a_template_that_rewrites_earlier_answers_is_refused(make: Make) -> None:
    template = TEMPLATE_WITHOUT_MARKS.replace(
        "{{ c['text'] }}", "{{ c['text'] if loop.last and messages | length < 3 else 'cut' }}"
    )
    turns = (Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("user", ("c",)), Turn("assistant", ("d",)))
    with pytest.raises(ModelRefusedError, match="chat template"):
        make(template).encode(Sample("s", "train", turns), [])


def test_a_model_without_a_template_is_refused(make: Make) -> None:
    with pytest.raises(ModelRefusedError, match="no chat template"):
        make(None).encode(question(), [decoded()])


@pytest.mark.parametrize("marks", [TEMPLATE_WITH_MARKS, TEMPLATE_WITHOUT_MARKS], ids=["marks", "prefix"])
@pytest.mark.parametrize("refusal", ["{{ raise_exception('no clips here') }}", "{{ messages[7].content }}"])
def test_a_conversation_that_the_template_refuses_is_an_error_naming_the_sample(
    make: Make, marks: str, refusal: str
) -> None:
    processor = make(marks + refusal)
    with pytest.raises(BadDataError, match="sample s1: the model's chat template refuses it"):
        processor.encode(question(), [decoded()])
    with pytest.raises(BadDataError, match="the prompt: the model's chat template refuses it"):
        processor.encode_prompt(question().turns[:1], [decoded()])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if %}", "broken"),
        ("{{ messages[0]['content'] + '!' }}", "sample s1: .* fails: TypeError"),
        ("{{ 1 / 0 }}", "Zero"),
    ],
)
def test_a_template_that_fails_by_itself_is_the_models_fault(make: Make, template: str, words: str) -> None:
    with pytest.raises(ModelRefusedError, match=words):
        make(template).encode(question(), [decoded()])


@pytest.mark.parametrize("token", ["<|im_end|>", "<|video_pad|>", "<|vision_start|>"])
def test_control_tokens_in_a_users_text_are_refused(make: Make, token: str) -> None:
    sample = Sample("s9", "train", (Turn("user", (CLIP, f"what {token} moves?")), Turn("assistant", ("left",))))
    with pytest.raises(BadDataError, match=r"sample s9: .*control token"):
        make().encode(sample, [decoded()])
    with pytest.raises(BadDataError, match=r"the prompt: .*control token"):
        make().encode_prompt(sample.turns[:1], [decoded()])


def test_a_sample_that_is_too_long_is_refused_not_cut(make: Make) -> None:
    length = make().encode(question(), [decoded()]).length
    assert make(max_tokens=length).encode(question(), [decoded()]).length == length
    with pytest.raises(BadDataError, match=rf"sample s1: {length} tokens, more than the limit of {length - 1}"):
        make(max_tokens=length - 1).encode(question(), [decoded()])


def test_a_prompt_is_the_beginning_of_its_sample(make: Make) -> None:
    processor = make()
    sample = question()
    prompt = processor.encode_prompt(sample.turns[:1], [decoded()])["input_ids"][0]
    encoded = processor.encode(sample, [decoded()])
    assert torch.equal(encoded.inputs["input_ids"][0][: len(prompt)], prompt)
    assert (encoded.labels[0][: len(prompt)] == IGNORED).all()
    assert encoded.labels[0][len(prompt)] != IGNORED


def test_a_padded_batch_has_the_loss_of_its_samples_one_by_one(qwen3: Any) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    batch = one_batch(base)
    assert batch.labels.shape[0] == 2
    assert batch.inputs["attention_mask"].sum() == batch.tokens < batch.labels.numel()
    processor = DataProcessor(base.processor)
    alone = [
        processor.collate([processor.encode(question("s1", "left"), [decoded(seed=1)])]),
        processor.collate([processor.encode(question("s2", "to the right"), [decoded((0.0, 0.5), seed=2)])]),
    ]
    with torch.no_grad():
        together = summed_loss(base.model, batch, base.device)
        apart = sum(summed_loss(base.model, each, base.device) for each in alone)
    assert batch.target_tokens == sum(each.target_tokens for each in alone) == len("left") + len("to the right") + 2
    assert float(together) == pytest.approx(float(apart), rel=1e-5)


def test_the_loss_is_the_one_transformers_computes(qwen3: Any) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    batch = one_batch(base)
    with torch.no_grad():
        ours = summed_loss(base.model, batch, base.device) / batch.target_tokens
        theirs = base.model(**batch.inputs, labels=batch.labels).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
