"""What a run does with its measurements on held-out samples: ends early, publishes the best adapter, answers samples;
and all of it again after a break, and none of it to the training itself."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from recording_run import RecordingRun
from safetensors.torch import load_file
from tiny_models import row, write_dataset

from trainer_svc.qlora import step_meter, trainer
from trainer_svc.qlora.adapter_files import SIDECAR
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import CheckpointMismatchError
from trainer_svc.qlora.folder_files import MANIFEST, build_manifest, write_json
from trainer_svc.qlora.inference import InferenceEngine
from trainer_svc.qlora.lookout import Lookout
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Generate,
    Log,
    Predicted,
    Progress,
    Stopped,
    StopReason,
    encode,
)
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import QuantizationSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

STATE = "state.json"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 samples to train on, and 3 held out, of which two have an answer that is never learned."""
    data = write_dataset(tmp_path_factory.mktemp("held_out"), samples=4)
    with (data / "rows.jsonl").open("a") as rows:
        for index, answer in enumerate(("red", "zzzz qqqq", "jjj")):
            rows.write(json.dumps(row(f"e{index}", f"{index}.mp4", "colour?", answer, split="eval")) + "\n")
    return data


def weights(run: RecordingRun) -> dict[str, torch.Tensor]:
    return load_file(run.folders.adapter / "adapter_model.safetensors")


def assert_same_weights(one: RecordingRun, two: RecordingRun) -> None:
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def owes_measurement(end: Stopped) -> bool:
    return bool(json.loads((Path(str(end.checkpoint)) / STATE).read_bytes())["owes_evaluation"])


def sidecar(run: RecordingRun) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folders.adapter / SIDECAR).read_bytes())
    return content


def assert_same_account(one: RecordingRun, two: RecordingRun) -> None:
    """What is published beside the weights, and what the service is told."""
    assert sidecar(one) == sidecar(two)
    assert isinstance(one.last, Completed)
    assert isinstance(two.last, Completed)
    assert one.last.final_loss == two.last.final_loss == sidecar(two)["training"]["loss"]


@pytest.fixture(scope="module")
def stopping(spec: TrainingSpec) -> TrainingSpec:
    """Its loss on the held-out samples soon rises: what it learns is wrong for two of them."""
    return spec.with_overrides(
        [
            *("optimization.epochs=10", "optimization.gradient_accumulation_steps=1", "evaluate_every_steps=1"),
            *("optimization.schedule=constant", "optimization.learning_rate=0.03"),
            *("early_stopping.patience=3", "restore_best=true", "checkpoint_every_steps=1"),
        ]
    )


@pytest.fixture(scope="module")
def stopped(
    qwen3: Path, held_out: Path, stopping: TrainingSpec, tmp_path_factory: pytest.TempPathFactory
) -> RecordingRun:
    run = RecordingRun(qwen3, held_out, tmp_path_factory.mktemp("stopped"))
    train(run, stopping)
    return run


def test_a_run_whose_loss_no_longer_falls_ends_says_why_and_publishes_its_best_adapter(
    stopped: RecordingRun, qwen3: Path, held_out: Path, stopping: TrainingSpec, tmp_path: Path
) -> None:
    losses = stopped.series("eval_loss")
    best = min(losses, key=lambda step: (losses[step], step))
    done = stopped.last
    assert isinstance(done, Completed)
    assert done.steps == max(losses) == best + 3 < 20
    assert done.early_end == (
        f"ended at step {done.steps} of 20: the loss on the held-out samples has not fallen for 3 measurements: "
        f"{losses[best]:.4g} at step {best} was the lowest"
    )
    told = sidecar(stopped)["training"]
    assert (told["steps"], told["adapter_of_step"], told["eval_loss"]) == (done.steps, best, losses[best])
    # It is the very adapter of that step.
    other = RecordingRun(qwen3, held_out, tmp_path / "other")
    train(other, stopping.with_overrides(
        [f"optimization.max_steps={best}", "early_stopping.patience=0", "restore_best=false"]
    ))  # fmt: skip
    assert_same_weights(stopped, other)


@pytest.mark.parametrize("before_the_end", [1, 0])
def test_a_run_goes_on_counting_where_it_was_broken(
    stopped: RecordingRun, stopping: TrainingSpec, qwen3: Path, held_out: Path, tmp_path: Path, before_the_end: int
) -> None:
    assert isinstance(stopped.last, Completed)
    last = stopped.last.steps
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    run.stop_after = (last - 1, StopReason.DRAIN)
    train(run, stopping)
    assert isinstance(run.last, Stopped)
    if not before_the_end:
        # Killed between the checkpoint of its last step and its end: it must not make another step.
        shutil.copytree(stopped.folders.checkpoints / f"step-{last:08d}", run.folders.checkpoints / f"step-{last:08d}")
    resumed = RecordingRun(qwen3, held_out, tmp_path / "out")
    train(resumed, stopping)
    assert isinstance(resumed.last, Completed)
    assert (resumed.last.steps, resumed.last.early_end) == (last, stopped.last.early_end)
    assert list(resumed.series("loss")) == [last] * before_the_end
    assert_same_weights(resumed, stopped)
    assert_same_account(resumed, stopped)


def test_a_stop_also_publishes_the_best_adapter_and_keeps_the_newest_checkpoint(
    stopped: RecordingRun, stopping: TrainingSpec, qwen3: Path, held_out: Path, tmp_path: Path
) -> None:
    assert isinstance(stopped.last, Completed)
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    run.stop_after = (stopped.last.steps - 1, StopReason.USER)
    train(run, stopping)
    assert isinstance(run.last, Stopped)
    assert_same_weights(run, stopped)
    newest = Path(str(run.last.checkpoint))
    saved = load_file(newest / "adapter.safetensors")
    assert not all(torch.equal(saved[name], value) for name, value in weights(run).items())


def test_patience_that_lasts_to_the_end_is_no_early_end(
    qwen3: Path, held_out: Path, stopping: TrainingSpec, tmp_path: Path
) -> None:
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    train(run, stopping.with_overrides(["early_stopping.patience=1", "optimization.max_steps=2", "restore_best=false"]))
    assert isinstance(run.last, Completed)
    assert (run.last.steps, run.last.early_end) == (2, "")
    assert "adapter_of_step" not in sidecar(run)["training"]


def test_the_warm_up_of_a_rank_allocation_is_neither_best_nor_patient(
    qwen3: Path, held_out: Path, stopping: TrainingSpec, tmp_path: Path
) -> None:
    """Its adapter has more parameters than were asked for, and another shape."""
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    allocating = [
        *("lora.rank=2", "lora.rank_allocation.warmup_steps=5", "lora.rank_allocation.calibration_batches=2"),
        *("early_stopping.patience=2", "early_stopping.min_delta=100", "optimization.max_steps=9"),
    ]
    train(run, stopping.with_overrides(allocating))
    assert isinstance(run.last, Completed)
    # Steps 1 to 5 do not count; of 6, 7 and 8 the first is the lowest so far, and the other two bring nothing.
    assert run.last.steps == 8
    assert sidecar(run)["training"]["adapter_of_step"] >= 6
    report = json.loads((run.folders.adapter / "rank_allocation.json").read_bytes())
    ranks = {layer["name"]: layer["rank"] for layer in report["layers"] if layer["rank"]}
    for name, rank in ranks.items():
        assert weights(run)[f"base_model.model.{name}.lora_A.weight"].shape[0] == rank


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_answering_samples_changes_nothing_that_is_learned(
    model: str, request: pytest.FixtureRequest, held_out: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    folder = request.getfixturevalue(model)
    answering, silent = (RecordingRun(folder, held_out, tmp_path / name) for name in ("with", "without"))
    wanted = spec.with_overrides(["evaluate_every_steps=1", "lora.target_groups=language,vision"])
    train(answering, wanted.with_overrides(["sample_predictions.count=2", "sample_predictions.max_new_tokens=5"]))
    train(silent, wanted)
    assert answering.series("loss") == silent.series("loss")
    assert answering.series("eval_loss") == silent.series("eval_loss")
    assert_same_weights(answering, silent)
    told = [message for message in answering.messages if isinstance(message, Predicted)]
    assert [message.step for message in told] == [1, 2, 3]
    for message in told:
        encode(message)
        # Three samples: two worst, and the one that is left.
        assert (len(message.best), len(message.worst)) == (1, 2)
        rows = [*message.best, *message.worst]
        assert {each["sample_id"] for each in rows} == {"e0", "e1", "e2"}
        assert message.best[0]["loss"] <= message.worst[1]["loss"] <= message.worst[0]["loss"]
        assert {(each["question"], each["expected"]) for each in rows} == {
            ("colour?", "red"),
            ("colour?", "zzzz qqqq"),
            ("colour?", "jjj"),
        }
    assert not [message for message in silent.messages if isinstance(message, Predicted)]


def test_an_answer_is_what_the_tuned_model_says(
    qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    wanted = ["optimization.max_steps=3", "sample_predictions.count=2", "sample_predictions.max_new_tokens=7"]
    train(run, spec.with_overrides(wanted))
    (told,) = (message for message in run.messages if isinstance(message, Predicted))
    base = load_base_model(qwen3, QuantizationSpec())
    with DecodePool() as pool:
        engine = InferenceEngine(base, pool)
        for each in (*told.best, *told.worst):
            clip = str(held_out / "clips" / f"{each['sample_id'][1:]}.mp4")
            request = Generate("r", "colour?", clip, str(run.folders.adapter), max_new_tokens=7)
            pieces: list[str] = []
            done = engine.generate(replace(request, sampling={"max_frames": 4}), pieces.append, lambda: False)
            assert (each["generated"], each["is_cut"]) == ("".join(pieces), done.finish == "length")


def test_a_stop_does_not_wait_for_answers(qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec) -> None:
    """Nor for the rest of one, which may have 512 tokens."""
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    run.stop_after, run.stop_at_look = (1, StopReason.USER), 9
    asking = ["evaluate_every_steps=1", "sample_predictions.count=1", "sample_predictions.max_new_tokens=512"]
    train(run, spec.with_overrides(["optimization.batch_size=1", *asking]))
    (told,) = (message for message in run.messages if isinstance(message, Predicted))
    assert told == Predicted(1, [], [])
    assert isinstance(run.last, Stopped)
    assert run.last.adapter_dir
    assert run.looks < 20
    # What was measured before counts.
    assert set(run.series("eval_loss")) == {1}
    assert not owes_measurement(run.last)


@pytest.mark.parametrize("reason", [StopReason.DRAIN, StopReason.USER])
def test_a_measurement_that_was_broken_off_is_made_by_whoever_goes_on(
    stopped: RecordingRun, stopping: TrainingSpec, qwen3: Path, held_out: Path, tmp_path: Path, reason: StopReason
) -> None:
    """Broken off twice, in the midst of its samples: patience and the best adapter are those of the unbroken run."""
    best = sidecar(stopped)["training"]["adapter_of_step"]
    broken = []
    for _ in range(2):
        run = RecordingRun(qwen3, held_out, tmp_path / "out")
        run.stop_after, run.stop_at_look = (best, reason) if not broken else (0, reason), 1
        train(run, stopping)
        assert run.last == Stopped(reason, best, ANY, ANY, ANY)
        assert bool(run.last.adapter_dir) == (reason is StopReason.USER)
        assert owes_measurement(run.last)
        assert best not in run.series("eval_loss")
        broken.append(run)
    assert not broken[1].series("loss")

    resumed = RecordingRun(qwen3, held_out, tmp_path / "out")
    train(resumed, stopping)
    assert isinstance(resumed.last, Completed)
    assert isinstance(stopped.last, Completed)
    assert (resumed.last.steps, resumed.last.early_end) == (stopped.last.steps, stopped.last.early_end)
    assert_same_weights(resumed, stopped)
    assert_same_account(resumed, stopped)
    for name in ("eval_loss", "loss"):
        assert broken[0].series(name) | resumed.series(name) == stopped.series(name)
    saved = [message for message in resumed.messages if isinstance(message, CheckpointSaved)]
    assert saved[0].step == best
    assert saved[0].eval_loss == stopped.series("eval_loss")[best]
    state = json.loads((resumed.folders.checkpoints / f"step-{best:08d}" / STATE).read_bytes())
    assert (state["eval_loss"], state["owes_evaluation"]) == (saved[0].eval_loss, False)


def test_what_a_run_does_between_steps_counts_as_none_of_them(
    qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that is owed from before, one that is due, and the allocation of ranks."""
    allocating = ["lora.rank=2", "lora.rank_allocation.warmup_steps=2", "lora.rank_allocation.calibration_batches=1"]
    spec = spec.with_overrides([*allocating, "optimization.max_steps=3", "evaluate_every_steps=1"])
    age = 1e6
    passed: list[str] = []

    def long(name: str) -> Callable[..., Any]:
        done = getattr(trainer, name)
        return lambda *given: (passed.append(name), done(*given))[1]

    for name in ("measure_held_out", "reallocate_ranks"):
        monkeypatch.setattr(trainer, name, long(name))
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + age * len(passed))
    monkeypatch.setattr(step_meter, "time", clock)
    broken, resumed = (RecordingRun(qwen3, held_out, tmp_path / "out") for _ in range(2))
    broken.stop_after, broken.stop_at_look = (1, StopReason.DRAIN), 1
    for run in (broken, resumed):
        train(run, spec)
    assert owes_measurement(broken.last)
    assert isinstance(resumed.last, Completed)
    assert passed == [*["measure_held_out"] * 3, "reallocate_ranks", "measure_held_out"]
    seconds = broken.series("step_seconds") | resumed.series("step_seconds")
    assert seconds.keys() == {1, 2, 3}
    assert max(seconds.values()) < age / 2


def test_a_run_whose_last_measurement_was_broken_off_only_measures(
    qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    whole, broken = RecordingRun(qwen3, held_out, tmp_path / "whole"), RecordingRun(qwen3, held_out, tmp_path / "out")
    train(whole, spec)
    broken.stop_after, broken.stop_at_look = (3, StopReason.DRAIN), 1
    train(broken, spec)
    assert isinstance(broken.last, Stopped)
    resumed = RecordingRun(qwen3, held_out, tmp_path / "out")
    train(resumed, spec)
    assert isinstance(resumed.last, Completed)
    assert resumed.series("eval_loss") == whole.series("eval_loss")
    assert not resumed.series("loss")
    assert_same_weights(resumed, whole)
    assert_same_account(resumed, whole)


def test_a_measurement_that_takes_long_shows_that_it_goes_on(
    qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.qlora.lookout.SIGN_SECONDS", 0.0)
    run = RecordingRun(qwen3, held_out, tmp_path / "out")
    train(run, spec.with_overrides(["optimization.batch_size=1", "optimization.max_steps=1"]))
    # One of the step, and one of each held-out sample.
    assert [message.step for message in run.messages if isinstance(message, Progress)] == [1] * 4
    told = RecordingRun(qwen3, held_out, tmp_path / "told")
    lookout = Lookout(told, Progress(1, 2, 0, 0.5), clock=iter([0.0, 4.9, 5.0, 5.0, 5.1]).__next__)
    monkeypatch.undo()
    for expected in (0, 1, 1):
        lookout.look_up()
        assert len(told.messages) == expected


def test_a_checkpoint_from_before_an_option_existed_is_gone_on_from_where_the_option_has_its_default(
    qwen3: Path, held_out: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    whole, old = RecordingRun(qwen3, held_out, tmp_path / "whole"), RecordingRun(qwen3, held_out, tmp_path / "old")
    train(whole, spec)
    old.stop_after = (2, StopReason.DRAIN)
    train(old, spec)
    _forget_new_options(old.folders.checkpoints)
    with pytest.raises(CheckpointMismatchError, match="specification"):
        train(RecordingRun(qwen3, held_out, tmp_path / "old"), spec.with_overrides(["lora.use_dora=true"]))
    resumed = RecordingRun(qwen3, held_out, tmp_path / "old")
    train(resumed, spec)
    told = [message.text for message in resumed.messages if isinstance(message, Log)]
    assert told[-1] == "going on from step-00000002"
    assert [message.step for message in resumed.messages if isinstance(message, Progress)] == [3]
    assert_same_weights(resumed, whole)
    assert not [message for message in resumed.messages if isinstance(message, CheckpointSaved)]


def _forget_new_options(checkpoints: Path) -> None:
    """Makes the checkpoint there one that a version without the newest options wrote, manifest included."""
    (folder,) = checkpoints.iterdir()
    state = json.loads((folder / STATE).read_bytes())
    specification = state["identity"]["specification"]
    for name in ("use_dora", "initialization", "layer_patterns"):
        del specification["lora"][name]
    del specification["sampling"]["placement"], specification["early_stopping"], specification["restore_best"]
    del state["evaluations"], state["owes_evaluation"], state["measured"]
    write_json(folder / STATE, state)
    (folder / MANIFEST).unlink()
    write_json(folder / MANIFEST, build_manifest(folder))
