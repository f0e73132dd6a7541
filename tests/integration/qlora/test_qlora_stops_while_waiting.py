"""A stop is heard while a clip hangs, or ranks are allocated, and who goes on from there has lost nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from fake_decoders import hanging
from recording_run import RecordingRun
from safetensors.torch import load_file
from tiny_models import row, write_dataset

from trainer_svc.qlora import cross_modal_rank_allocator, rank_allocation
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.lookout import BrokenOffError
from trainer_svc.qlora.messages import Started, Stopped, StopReason
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.trainer import train

NewRun = Callable[..., RecordingRun]


@pytest.mark.parametrize("waiting", ["train", "eval", "rank allocation"])
def test_a_stop_does_not_wait_for_a_clip_that_hangs(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run_with_hanging_clip(qwen3, tmp_path, monkeypatch, split="eval" if waiting == "eval" else "train")
    changes = [*_hanging_in_step(1)]
    if waiting == "eval":
        changes += ["evaluate_every_steps=1"]
    if waiting == "rank allocation":
        changes += ["lora.rank_allocation.warmup_steps=1", "lora.rank_allocation.calibration_batches=2"]
    # The look before the step, or the one before the measurement, is in vain.
    run.stop_after, run.stop_at_look = (1, StopReason.USER), 1
    train(run, spec.with_overrides(changes))
    assert isinstance(run.last, Stopped)
    assert (run.last.step, run.last.reason) == (1, StopReason.USER)
    assert run.last.adapter_dir
    assert run.last.checkpoint
    saved = json.loads((Path(run.last.checkpoint) / "state.json").read_bytes())
    assert saved["allocation"] is None


def test_a_stop_does_not_wait_for_a_clip_that_hangs_before_the_first_step(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run_with_hanging_clip(qwen3, tmp_path, monkeypatch, split="train")
    run.stop_after = (0, StopReason.USER)
    train(run, spec.with_overrides([*_hanging_in_step(0), "lora.initialization=eva"]))
    assert run.last == Stopped(StopReason.USER, 0, None, None, None)
    assert not any(isinstance(message, Started) for message in run.messages)


def test_a_run_that_was_stopped_while_ranks_were_allocated_equals_one_that_never_was(
    new_run: NewRun, spec: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of its calibration, with a batch behind it."""
    spec = spec.with_overrides(
        ["lora.rank=2", "lora.rank_allocation.warmup_steps=2", "lora.rank_allocation.calibration_batches=3"]
    )
    whole, broken = new_run("whole"), new_run("broken")
    train(whole, spec)
    seen = 0
    score = cross_modal_rank_allocator.batch_scores

    def stop_after_some(*args: Any) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == 20:
            raise BrokenOffError(StopReason.DRAIN)
        return score(*args)

    with monkeypatch.context() as patched:
        patched.setattr(rank_allocation, "batch_scores", stop_after_some)
        train(broken, spec)
    assert broken.last == Stopped(StopReason.DRAIN, 2, None, ANY, None)
    resumed = new_run("broken")
    train(resumed, spec)
    ours, theirs = (load_file(run.folders.adapter / "adapter_model.safetensors") for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _run_with_hanging_clip(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, split: str) -> RecordingRun:
    """Over three samples, of which the last has a clip that no decoder comes back from."""
    data = write_dataset(folder / "data", samples=2)
    shutil.copy(data / "clips" / "0.mp4", data / "clips" / "hanging.mp4")
    monkeypatch.setattr(DecodePool, "of", lambda _: DecodePool(timeout_seconds=500, make=hanging))
    with (data / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps(row("h", "hanging.mp4", "colour?", "red", split=split)) + "\n")
    return RecordingRun(model, data, folder / "out")


def _hanging_in_step(step: int) -> list[str]:
    """Options for steps of one sample, that one in this step."""
    seed = next(seed for seed in range(99) if SamplePlan(3, 1, 1, seed).micro_batches(step) == [[2]])
    sizes = ["optimization.batch_size=1", "optimization.gradient_accumulation_steps=1", "optimization.max_steps=3"]
    return [*sizes, f"optimization.seed={seed}"]
