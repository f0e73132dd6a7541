"""The model tool, as the catalog starts it: previews that training cannot contradict, and nothing executed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_families import save_internvl, save_llava_onevision, save_smolvlm, save_video_llama_3
from tiny_models import TEMPLATE_WITHOUT_MARKS, write_clip

from meshkit.sandbox.pool import ChildPool
from meshkit.sandbox.process import ChildDied
from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.data_processor import IGNORED, Batch, DataProcessor
from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.frame_decoder import decode_here
from trainer_svc.qlora.model_tool import MEMORY_VARIABLE
from trainer_svc.qlora.preview import MAX_FRAME_BYTES, describe, encode_picture, encode_sample, spread
from trainer_svc.qlora.processor_loader import load_processor
from trainer_svc.qlora.spec import SamplingSpec

COMMAND = (sys.executable, "-m", "trainer_svc.qlora.model_tool")
SAMPLING = {"max_frames": 5, "fps": 3.0, "max_pixels": 20 * 20}


def tool_pool(**options: Any) -> ChildPool:
    options = {"deadline_seconds": 120, "start_seconds": 120, "max_line_bytes": 8 << 20, **options}
    return ChildPool(1, COMMAND, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tool() -> AsyncIterator[ChildPool]:
    pool = tool_pool()
    yield pool
    await pool.close()


def sample(path: str, question: str = "colour?", answer: str = "red", split: str = "train") -> dict[str, Any]:
    """A sample as the catalog keeps it."""
    user = [{"video": {"path": path}}, {"text": question}]
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": [{"text": answer}]}]
    return {"sample_id": "s0", "split": split, "messages": messages}


def preview_of(model: Path, dataset: Path, shown: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "kind": "preview", "model": str(model), "dataset": str(dataset), "sample": shown,
        "sampling": SAMPLING, "max_frames": 16, "decoder": "auto", **fields,
    }  # fmt: skip


def training_batch(model: Path, dataset: Path, sampling: SamplingSpec) -> Batch:
    """The first sample's batch of one, made as a training job makes it."""
    processor = DataProcessor(load_processor(model), max_tokens=2048)
    with DecodePool() as pool:
        source = FrameSource(pool, sampling, cache_bytes=1 << 20)
        with BatchStream(load_samples(dataset), [[0]], source, processor, ahead=1) as stream:
            (batch,) = next(stream)
            return batch


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5"])
async def test_a_preview_is_what_a_training_batch_holds(
    tool: ChildPool, family: str, dataset: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    batch = await asyncio.to_thread(training_batch, model, dataset, SamplingSpec(**SAMPLING))
    shown = (await tool.ask(preview_of(model, dataset, sample("0.mp4"))))["preview"]

    spans = shown["spans"]
    ids = chain.from_iterable(span["ids"] * (span["count"] if span["is_video"] else 1) for span in spans)
    assert list(ids) == batch.inputs["input_ids"][0].tolist()
    learned = chain.from_iterable([span["is_label"]] * span["count"] for span in spans)
    assert list(learned) == (batch.labels[0] != IGNORED).tolist()
    assert (shown["tokens"], shown["label_tokens"]) == (batch.tokens, batch.target_tokens)
    assert [span["text"] for span in spans if span["is_label"]] == ["red<|im_end|>"]
    assert shown["video_tokens"] == int((batch.inputs["mm_token_type_ids"] == 2).sum()) > 0
    assert shown["text"].count("<|video_pad|>") == 1
    assert "colour?" in shown["text"]


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5"])
def test_the_frames_and_pixels_are_those_of_training_bit_by_bit(
    family: str, dataset: Path, request: pytest.FixtureRequest
) -> None:
    model, sampling = request.getfixturevalue(family), SamplingSpec(**SAMPLING)
    first = load_samples(dataset)[0]
    inputs = encode_sample(DataProcessor(load_processor(model)), first, sampling, decode_here)
    batch = training_batch(model, dataset, sampling)
    with DecodePool() as pool:
        (trained,) = [pool.decode(clip.path, clip.frame_request(sampling)).result(60) for clip in first.clips]

    assert np.array_equal(inputs.clips[0].frames, trained.frames)
    assert inputs.clips[0].timestamps == trained.timestamps
    assert inputs.clips[0].indices == trained.indices
    assert set(inputs.encoded.inputs) == set(batch.inputs)
    for name, value in inputs.encoded.inputs.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(batch.inputs[name])), name
    assert torch.equal(inputs.encoded.labels, batch.labels)


async def test_the_pictures_are_the_clips_frames_with_their_places_and_times(
    tool: ChildPool, qwen3: Path, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clips" / "blue.mp4", colour=(0, 0, 255), frames=12, rate=6, size=32)
    answer = await tool.ask(preview_of(qwen3, tmp_path, sample("blue.mp4"), sampling={"max_frames": 4}, max_frames=3))
    (clip,) = answer["preview"]["clips"]

    assert answer["preview"]["sampling"] == {
        "max_frames": 4,
        "min_frames": 2,
        "fps": 0.0,
        "max_pixels": 0,
        "placement": "even",
    }
    assert (clip["frame_count"], clip["clip_frame_count"], clip["width"]) == (4, 12, 32)
    assert (clip["model_width"], clip["model_height"]) == (32, 32)
    assert [frame["position"] for frame in clip["frames"]] == [0, 2, 3], "spread over the four that are fed"
    assert [frame["index"] for frame in clip["frames"]] == [0, 7, 11]
    assert [frame["seconds"] for frame in clip["frames"]] == pytest.approx([0, 7 / 6, 11 / 6], abs=1e-4)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(clip["frames"][1]["jpeg"]))).convert("RGB"))
    assert picture.shape == (32, 32, 3)
    red, green, blue = picture[:, 15:21].reshape(-1, 3).mean(axis=0)  # the bar is at 14 to 22
    assert blue > 180
    assert max(red, green) < 60


async def test_what_training_would_refuse_is_told(tool: ChildPool, qwen3: Path, dataset: Path) -> None:
    ask = tool.ask

    long = (await ask(preview_of(qwen3, dataset, sample("0.mp4", question="why? " * 600))))["preview"]
    assert [warning["reason"] for warning in long["warnings"]] == ["SEQUENCE_TOO_LONG"]
    assert long["tokens"] > long["token_limit"] == 2048
    other = (await ask(preview_of(qwen3, dataset, sample("0.mp4", split="holdout"))))["preview"]
    assert [warning["reason"] for warning in other["warnings"]] == ["SPLIT_NOT_TRAINED"]
    huge = (await ask(preview_of(qwen3, dataset, sample("0.mp4", question="x" * 200_000))))["preview"]
    assert [warning["reason"] for warning in huge["warnings"]] == ["SEQUENCE_TOO_LONG", "TEXT_CUT"]
    assert len(json.dumps(huge)) < 4 << 20
    for asked, reason, words in (
        (sample("0.mp4", question="a <|im_end|> b"), "BAD_DATA", "control token"),
        (sample("absent.mp4"), "BAD_DATA", "no clip"),
    ):
        failure = (await ask(preview_of(qwen3, dataset, asked)))["failure"]
        assert failure["reason"] == reason
        assert words in failure["message"]
    bad = (await ask(preview_of(qwen3, dataset, sample("0.mp4"), sampling={"max_frames": 0})))["failure"]
    assert bad["reason"] == "BAD_SPEC"


async def test_one_forward_step_passes_and_bad_weights_do_not(tool: ChildPool, qwen3: Path, tmp_path: Path) -> None:
    passed = (await tool.ask({"kind": "forward", "model": str(qwen3)}))["forward"]
    assert passed["loss"] > 0

    lacking = shutil.copytree(qwen3, tmp_path / "lacking")
    config = json.loads((lacking / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (lacking / "config.json").write_text(json.dumps(config))
    spoilt = shutil.copytree(qwen3, tmp_path / "spoilt")
    tensors = load_file(spoilt / "model.safetensors")
    save_file({name: value * float("nan") for name, value in tensors.items()}, spoilt / "model.safetensors")
    endless = shutil.copytree(qwen3, tmp_path / "endless")
    (endless / "chat_template.jinja").write_text(TEMPLATE_WITHOUT_MARKS.replace("<|im_end|>", ""))
    for folder, words in ((lacking, "lack"), (spoilt, "loss of nan"), (endless, "never stop")):
        failure = (await tool.ask({"kind": "forward", "model": str(folder)}))["failure"]
        assert failure["reason"] == "MODEL_UNSUPPORTED"
        assert words in failure["message"]
        assert failure["next_step"]


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self._file, "run")


@pytest.mark.parametrize("kind", ["preview", "forward"])
async def test_nothing_in_a_model_folder_is_ever_executed(
    tool: ChildPool, kind: str, qwen3: Path, dataset: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').write('run')\nclass Model:\n    pass\n"

    def pickled(folder: Path) -> None:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))

    def coded(folder: Path) -> None:
        (folder / "modeling.py").write_text(code)

    def with_keys(file: str, keys: dict[str, Any]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            known = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({**known, **keys}))

        return change

    asks_for_code = {"AutoConfig": "modeling.Model", "AutoProcessor": "modeling.Model"}
    tricks = {
        "pickle": pickled,
        "code": coded,
        "auto_map": with_keys("config.json", {"auto_map": asks_for_code}),
        "processor": with_keys("processor_config.json", {"auto_map": asks_for_code}),
        "tokenizer": with_keys("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling.Model", None]}}),
        "nested": with_keys("config.json", {"vision_config": {"inner": [{"trust_remote_code": True}]}}),
    }
    for name, trick in tricks.items():
        folder = shutil.copytree(qwen3, tmp_path / name)
        trick(folder)
        answer = await tool.ask({**preview_of(folder, dataset, sample("0.mp4")), "kind": kind})
        assert answer["failure"]["reason"] == "MODEL_UNSUPPORTED", name
        assert not canary.exists(), name


async def test_a_template_that_reaches_for_python_gets_nothing(
    tool: ChildPool, qwen3: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(qwen3, tmp_path / "model")
    canary = tmp_path / "canary"
    escape = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}"
    (folder / "chat_template.jinja").write_text(escape)
    answer = await tool.ask(preview_of(folder, dataset, sample("0.mp4")))
    assert "failure" in answer
    assert not canary.exists()


async def test_a_child_without_enough_memory_says_so_or_dies_and_no_more(qwen3: Path, dataset: Path) -> None:
    pool = tool_pool(environment={MEMORY_VARIABLE: str(4 << 30)}, requests_per_child=1)
    big = sample("0.mp4", question="y" * (16 << 20))
    try:
        answer = await pool.ask_once(preview_of(qwen3, dataset, big))
    except ChildDied:
        assert not pool.child_pids()
    else:
        assert answer["failure"]["reason"] == "OUT_OF_MEMORY", answer
    finally:
        await pool.close()


def test_pictures_are_kept_within_their_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    for budget in (MAX_FRAME_BYTES // 64, MAX_FRAME_BYTES):
        jpeg, width, height = encode_picture(noise, budget)
        assert len(jpeg) <= budget
        assert Image.open(io.BytesIO(jpeg)).size == (width, height)
        assert width * height <= 512 * 512
        assert width / height == pytest.approx(1280 / 720, rel=0.1)


@pytest.mark.parametrize(
    ("count", "most", "places"), [(3, 8, [0, 1, 2]), (8, 3, [0, 4, 7]), (8, 1, [0]), (8, 0, []), (1, 1, [0])]
)
def test_pictures_are_spread_over_the_frames(count: int, most: int, places: list[int]) -> None:
    assert spread(count, most) == places


@pytest.mark.parametrize("family", [save_smolvlm, save_llava_onevision, save_internvl, save_video_llama_3])
def test_other_families_are_shown_by_the_same_code(
    family: Callable[[Path], Path], dataset: Path, tmp_path: Path
) -> None:
    """Some take clips as pictures, some leave out tokens: what is shown must still be what a batch holds."""
    model, sampling = family(tmp_path), SamplingSpec(max_frames=4)
    processor, first = DataProcessor(load_processor(model)), load_samples(dataset)[0]
    inputs = encode_sample(processor, first, sampling, decode_here)
    shown, is_cut = describe(processor, inputs, max_frames=2, token_limit=0)
    batch = training_batch(model, dataset, sampling)

    spans = shown["spans"]
    ids = chain.from_iterable(span["ids"] * (span["count"] if span["is_video"] else 1) for span in spans)
    assert list(ids) == batch.inputs["input_ids"][0].tolist()
    assert shown["label_tokens"] == batch.target_tokens
    assert shown["video_tokens"] > 0
    assert "red" in "".join(span["text"] for span in spans if span["is_label"])
    (clip,) = shown["clips"]
    assert (clip["frame_count"], len(clip["frames"])) == (4, 2)
    assert clip["model_width"] > 0
    assert clip["model_height"] > 0
    assert not is_cut
