"""Batches of samples of like length: told apart by one frame of each clip, learned like any others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_run import RecordingRun
from safetensors.torch import load_file
from tiny_models import row, write_clip

from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.families import FAMILIES
from trainer_svc.qlora.messages import Completed, StopReason
from trainer_svc.qlora.sample_lengths import measure_lengths
from trainer_svc.qlora.spec import SamplingSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

FRAMES = (2, 12, 3, 11, 4, 10)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 6 frames a second and unlike length."""
    folder = tmp_path_factory.mktemp("unlike")
    rows = []
    for index, frames in enumerate(FRAMES):
        write_clip(folder / "clips" / f"{index}.mp4", frames=frames)
        rows.append(row(f"s{index}", f"{index}.mp4", "what?", "red"))
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool() as opened:
        yield opened


@pytest.fixture(scope="module")
def bucketed(spec: TrainingSpec) -> TrainingSpec:
    """2 epochs of 3 steps."""
    changes = ["optimization.batch_by_length=true", "optimization.gradient_accumulation_steps=1"]
    sampling = ["sampling.fps=6", "sampling.max_frames=12", "sampling.min_frames=1"]
    return spec.with_overrides([*changes, *sampling, "optimization.epochs=2"])


def test_lengths_follow_frames_and_pixels_and_text(unlike: Path, pool: DecodePool) -> None:
    samples = load_samples(unlike)
    grid, stacked = FAMILIES["qwen3_vl"], FAMILIES["smolvlm"]
    by_rate = SamplingSpec(fps=6, max_frames=10, min_frames=1)
    assert measure_lengths(samples, pool, by_rate, stacked) == [2 + 64 * min(frames, 10) for frames in FRAMES]
    spread = SamplingSpec(max_frames=3)
    assert measure_lengths(samples, pool, spread, stacked) == [2 + 64 * min(frames, 3) for frames in FRAMES]
    assert measure_lengths(samples, pool, spread, grid) == [2 + -(-min(frames, 3) * 1024 // 784) for frames in FRAMES]
    small = SamplingSpec(max_frames=3, max_pixels=256)
    assert max(measure_lengths(samples, pool, small, grid)) == 2 + 1


def test_a_clip_without_frames_is_named_before_training(tmp_path: Path, pool: DecodePool) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x.mp4").write_bytes(b"no video")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("s0", "x.mp4", "what?", "red")))
    with pytest.raises(BadDataError, match=r"sample s0: clip x\.mp4"):
        measure_lengths(load_samples(tmp_path), pool, SamplingSpec(), FAMILIES["qwen3_vl"])


def test_a_run_that_went_on_learns_as_one_that_never_stopped(
    qwen3: Path, unlike: Path, tmp_path: Path, bucketed: TrainingSpec
) -> None:
    """Stopped inside an epoch, and gone on over its end."""
    unbroken = RecordingRun(qwen3, unlike, tmp_path / "unbroken")
    train(unbroken, bucketed)
    broken = RecordingRun(qwen3, unlike, tmp_path / "broken")
    broken.stop_after = (2, StopReason.DRAIN)
    train(broken, bucketed)
    resumed = RecordingRun(qwen3, unlike, tmp_path / "broken")
    train(resumed, bucketed)
    assert isinstance(resumed.last, Completed)
    left, right = (load_file(run.folders.adapter / "adapter_model.safetensors") for run in (unbroken, resumed))
    assert {name: value.numpy().tobytes() for name, value in left.items()} == {
        name: value.numpy().tobytes() for name, value in right.items()
    }


def test_samples_weigh_the_same_in_whatever_batches_they_come(
    qwen3: Path, unlike: Path, tmp_path: Path, bucketed: TrainingSpec
) -> None:
    """One step over all samples: its loss and gradient do not depend on which of them share a batch."""
    whole = bucketed.with_overrides(
        ["optimization.gradient_accumulation_steps=3", "optimization.max_steps=1", "lora.dropout=0"]
    )
    by_length, plain = (RecordingRun(qwen3, unlike, tmp_path / name) for name in ("by_length", "plain"))
    train(by_length, whole)
    train(plain, whole.with_overrides(["optimization.batch_by_length=false"]))
    for name in ("loss", "grad_norm"):
        assert by_length.series(name)[1] == pytest.approx(plain.series(name)[1], rel=1e-5)
