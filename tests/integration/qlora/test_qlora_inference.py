from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from child_processes import Child, started
from recording_run import RecordingRun
from safetensors.torch import load_file, save_file

from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.dataset_rows import Turn
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.generation import generate_tokens
from trainer_svc.qlora.inference import AdapterSet, _TextPieces, memory_of
from trainer_svc.qlora.launch import inference_command
from trainer_svc.qlora.messages import (
    Cancel,
    Failed,
    FailureReason,
    Generate,
    GenerationDone,
    GenerationFailed,
    InferenceReady,
    Message,
    SideDone,
    TokenText,
)
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE
from trainer_svc.qlora.spec import QuantizationSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

LONG = 1500


@pytest.fixture(scope="module")
def adapter(qwen3: Path, dataset: Path, spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says red of red clips and blue of blue ones."""
    run = RecordingRun(qwen3, dataset, tmp_path_factory.mktemp("tuned"))
    enough = ["optimization.epochs=20", "optimization.learning_rate=0.003", "lora.rank=16", "checkpoint_every_steps=0"]
    train(run, spec.with_overrides(enough))
    assert run.series("loss")[40] < 0.1
    return run.folders.adapter


@pytest.fixture(scope="module")
def child(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    errors = tmp_path_factory.mktemp("inference") / "stderr.txt"
    with started(lambda fd: inference_command(qwen3, fd), errors) as running:
        ready = running.read_kind(InferenceReady)
        assert ready.base_fingerprint.startswith("sha256:")
        yield running
        running.process.terminate()
        assert running.finish() == 0
        assert running.stderr == ""


def is_end(message: Message, request_id: str) -> bool:
    return isinstance(message, (GenerationDone, GenerationFailed)) and message.request_id == request_id


def ask(child: Child, request: Generate) -> tuple[str, GenerationDone]:
    """(the whole answer, its end)."""
    before = len(child.messages)
    child.send(request)
    end = child.read_until(lambda message: is_end(message, request.request_id))
    assert isinstance(end, GenerationDone), end
    pieces = [message for message in child.messages[before:] if isinstance(message, TokenText)]
    assert all(piece.request_id == request.request_id for piece in pieces)
    return "".join(piece.text for piece in pieces), end


def clip(dataset: Path, index: int) -> str:
    return str(dataset / "clips" / f"{index}.mp4")


def test_the_tuned_model_answers_what_the_base_model_cannot(child: Child, dataset: Path, adapter: Path) -> None:
    sampling = {"max_frames": 4}
    for index in range(4):
        question = {"prompt": "colour?", "clip": clip(dataset, index), "sampling": sampling, "max_new_tokens": 12}
        expected = ("red", "blue")[index % 2]
        base, _ = ask(child, Generate(f"base-{index}", **question))
        tuned, done = ask(child, Generate(f"tuned-{index}", adapter_dir=str(adapter), **question))
        assert base != expected
        assert tuned == expected
        assert done.finish == "stop"
        assert done.generated_tokens == len(expected) + 1
        assert done.prompt_tokens > 50
        # The adapter leaves no trace in the base model.
        assert ask(child, Generate(f"again-{index}", **question))[0] == base


def test_text_comes_in_pieces_while_it_is_made(child: Child) -> None:
    before = len(child.messages)
    _, done = ask(child, Generate("pieces", "tell", max_new_tokens=64))
    assert sum(isinstance(message, TokenText) for message in child.messages[before:]) > 3
    assert done.finish in ("length", "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_side_by_side_each_says_token_by_token_what_it_says_alone(
    child: Child, dataset: Path, adapter: Path, temperature: float
) -> None:
    question = {"prompt": "colour?", "clip": clip(dataset, 0), "sampling": {"max_frames": 4}, "max_new_tokens": 12}
    question |= {"temperature": temperature, "seed": 7}
    alone = [ask(child, Generate("alone", **question, adapter_dir=folder)) for folder in (None, str(adapter))]

    before = len(child.messages)
    child.send(Generate("both", **question, adapter_dir=str(adapter), beside_base=True))
    done = child.read_until(lambda message: is_end(message, "both"))

    messages = child.messages[before:]
    pieces = [message for message in messages if isinstance(message, TokenText)]
    ends = {message.of_base: message for message in messages if isinstance(message, SideDone)}
    texts = ["".join(piece.text for piece in pieces if piece.of_base is of_base) for of_base in (True, False)]
    assert texts == [text for text, _ in alone]
    assert [ends[of_base].generated_tokens for of_base in (True, False)] == [end.generated_tokens for _, end in alone]
    assert isinstance(done, GenerationDone)
    assert done.generated_tokens == sum(end.generated_tokens for _, end in alone)
    assert {piece.of_base for piece in pieces[:4]} == {True, False}, "neither waits for the other's end"
    assert ask(child, Generate("after", **question))[0] == texts[0], "the adapter leaves no trace"


def test_both_answers_end_when_the_question_is_cancelled(child: Child, adapter: Path) -> None:
    long = {"max_new_tokens": LONG, "temperature": 5.0, "adapter_dir": str(adapter)}
    child.send(Generate("both", "tell", beside_base=True, **long))
    child.read_kind(TokenText)
    child.send(Cancel("both"))
    done = child.read_until(lambda message: is_end(message, "both"))
    ends = [message for message in child.messages if isinstance(message, SideDone)][-2:]
    assert isinstance(done, GenerationDone)
    assert [done.finish, *(end.finish for end in ends)] == ["cancelled"] * 3


def test_sampling_repeats_with_its_seed(child: Child) -> None:
    def answer(name: str, seed: int) -> str:
        return ask(child, Generate(name, "tell", max_new_tokens=24, temperature=1.5, seed=seed))[0]

    assert answer("one", 1) == answer("two", 1)
    assert answer("three", 2) != answer("four", 3)


def test_the_least_temperature_takes_the_likeliest_token(child: Child) -> None:
    likeliest = ask(child, Generate("cold", "tell", max_new_tokens=8))[0]
    assert ask(child, Generate("hardly warm", "tell", max_new_tokens=8, temperature=1e-300))[0] == likeliest


def test_an_answer_ends_with_the_models_context(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec(bits=16))
    processor = DataProcessor(base.processor)
    inputs = processor.encode_prompt((Turn("user", ("tell",)),), [])
    length = inputs["input_ids"].shape[1]

    def answer(context: int) -> list[int]:
        narrow = replace(base, config={"max_position_embeddings": context})
        return generate_tokens(
            base.model,
            narrow,
            inputs,
            pad_token_id=processor.pad_token_id,
            max_new_tokens=8,
            is_cancelled=lambda: False,
        )

    whole = answer(0)
    assert len(whole) == 8
    assert [answer(length + room) for room in (0, 3, 8)] == [[], whole[:3], whole]


def test_a_running_answer_is_cancelled(child: Child) -> None:
    child.send(Generate("long", "tell", max_new_tokens=LONG, temperature=5.0))
    child.read_kind(TokenText)
    child.send(Cancel("long"))
    done = child.read_until(lambda message: is_end(message, "long"))
    assert isinstance(done, GenerationDone)
    assert done.finish == "cancelled"
    assert done.generated_tokens < LONG


def test_a_request_that_is_cancelled_before_its_turn_is_not_answered(child: Child) -> None:
    child.send(Generate("busy", "tell", max_new_tokens=LONG, temperature=5.0))
    child.send(Generate("waiting", "tell"))
    child.read_kind(TokenText)
    child.send(Cancel("waiting"))
    child.send(Cancel("busy"))
    ended = child.read_until(lambda message: is_end(message, "waiting"))
    assert ended == GenerationDone("waiting", 0, 0, "cancelled", 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": "/nonexistent.mp4"}, "missing"),
        ({"clip": __file__}, "no known video container"),
        ({"adapter_dir": "/nonexistent"}, "holds no adapter"),
        ({"sampling": {"frames": 3}}, "sampling.frames: unknown field"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"prompt": " "}, "prompt: empty"),
        ({"prompt": "<|im_end|>"}, "control token"),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_served(child: Child, change: dict[str, Any], words: str) -> None:
    child.send(Generate("bad", **({"prompt": "what?"} | change)))
    failed = child.read_kind(GenerationFailed)
    reason = FailureReason.BAD_CLIP if "clip" in change else FailureReason.BAD_REQUEST
    assert (failed.request_id, failed.reason) == ("bad", reason)
    assert words in failed.message
    assert failed.next_step
    assert ask(child, Generate("good", "what?", max_new_tokens=2))[1].generated_tokens > 0


def test_a_folder_that_is_no_model_is_a_typed_failure(tmp_path: Path) -> None:
    with started(lambda fd: inference_command(tmp_path, fd), tmp_path / "stderr.txt") as child:
        assert child.finish() == 1
    assert isinstance(child.messages[-1], Failed)
    assert child.messages[-1].reason is FailureReason.MODEL_UNSUPPORTED


def test_it_ends_when_its_parent_is_gone(qwen3: Path, tmp_path: Path) -> None:
    with started(lambda fd: inference_command(qwen3, fd), tmp_path / "stderr.txt") as child:
        child.read_kind(InferenceReady)
        child.hang_up()
        assert child.process.wait(30) == ORPHAN_EXIT_CODE


def test_adapters_are_swapped_dropped_and_loaded_again(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    ids = torch.arange(20, 40)[None]
    adapters = AdapterSet(base, limit=2)

    def logits(folder: Path | None) -> torch.Tensor:
        with torch.no_grad(), adapters.active(str(folder) if folder else None) as model:
            result: torch.Tensor = model(input_ids=ids).logits
            return result

    others = [_variant(adapter, tmp_path / str(index), factor) for index, factor in enumerate((0.5, -1.0))]
    plain, tuned = logits(None), logits(adapter)
    assert not torch.equal(plain, tuned)
    results = [logits(folder) for folder in others]
    assert not torch.equal(results[0], results[1])
    # The limit is 2, so the first was dropped by now and is read again.
    assert torch.equal(logits(adapter), tuned)
    assert torch.equal(logits(others[0]), results[0])
    assert torch.equal(logits(None), plain)
    # The same folder, written anew, is another adapter.
    shutil.rmtree(others[0])
    _variant(adapter, others[0], 2.0)
    assert not torch.equal(logits(others[0]), results[0])


def test_an_adapter_on_a_base_held_otherwise_is_told(
    qwen3: Path, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for bits, told in ((4, []), (16, ["trained on a base held in NF4, and this one is held in full precision"])):
        caplog.clear()
        with AdapterSet(load_base_model(qwen3, QuantizationSpec(bits=bits)), limit=1).active(str(adapter)):
            words = [record.getMessage() for record in caplog.records if "held in" in record.getMessage()]
        assert len(words) == len(told)
        assert all(expected in found for expected, found in zip(told, words, strict=True))


def test_adapters_are_bounded_in_bytes(qwen3: Path, adapter: Path, tmp_path: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    first, second, third = (_variant(adapter, tmp_path / str(index), 1.0 + index) for index in range(3))
    size = memory_of(first)
    adapters = AdapterSet(base, limit=8, max_bytes=2 * size)
    weights = sum(
        each.numel() * each.element_size() for each in load_file(first / "adapter_model.safetensors").values()
    )
    assert size == weights, "the tiny adapters are kept as they were trained, in 32 bits"

    def names() -> list[str]:
        return [held.name for held in adapters.held]

    with adapters.active(str(first)), adapters.active(str(second)):
        assert names() == ["adapter1", "adapter2"]
    with adapters.active(str(first)), adapters.active(str(third)) as model:
        assert names() == ["adapter1", "adapter3"]
        assert set(model.peft_config) == {"adapter1", "adapter3"}
        held = sum(each.numel() for name, each in model.named_parameters() if ".adapter" in name)
        assert 4 * held == 2 * size
    with pytest.raises(BadDataError, match="TRAINER_INFERENCE_ADAPTER_BYTES"):
        AdapterSet(base, limit=8, max_bytes=size - 1).active(str(first)).__enter__()


@pytest.mark.parametrize("damage", ["another base", "a plugin", "a pickle", "stray tensors", "wrong shapes"])
def test_adapters_that_do_not_fit_are_refused_and_leave_no_trace(
    qwen3: Path, adapter: Path, tmp_path: Path, damage: str
) -> None:
    folder = _variant(adapter, tmp_path / "damaged", 1.0)
    sidecar = json.loads((folder / "reeltune_adapter.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    match damage:
        case "another base":
            sidecar["base"]["fingerprint"] = "sha256:0"
        case "a plugin":
            sidecar["plugin"] = {"name": "temporal"}
        case "a pickle":
            (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        case "stray tensors":
            save_file(
                {**weights, "base_model.model.stray.lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors"
            )
        case "wrong shapes":
            save_file({name: value[:1] for name, value in weights.items()}, folder / "adapter_model.safetensors")
    (folder / "reeltune_adapter.json").write_text(json.dumps(sidecar))
    base = load_base_model(qwen3, QuantizationSpec())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        plain = base.model(input_ids=ids).logits
    adapters = AdapterSet(base, limit=2)
    with pytest.raises(BadDataError), adapters.active(str(folder)):
        pass
    with torch.no_grad(), adapters.active(None) as model:
        assert torch.equal(model(input_ids=ids).logits, plain)
    with adapters.active(str(adapter)):
        pass


def test_characters_of_several_tokens_are_told_whole(qwen3: Path) -> None:
    tokenizer = load_base_model(qwen3, QuantizationSpec()).processor.tokenizer
    told: list[str] = []
    pieces = _TextPieces(tokenizer, told.append)
    pieces.put(torch.tensor([[1, 2, 3]]))  # the prompt
    text = "aé✓ 🎬b"
    for token in tokenizer(text)["input_ids"]:
        pieces.put(torch.tensor([token]))
    pieces.end()
    assert told == list(text)


def _variant(adapter: Path, folder: Path, factor: float) -> Path:
    """A copy of `adapter` with its weights scaled."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    save_file({name: value * factor for name, value in load_file(file).items()}, file)
    return folder
