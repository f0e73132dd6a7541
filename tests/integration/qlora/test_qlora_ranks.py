"""Runs on two devices: two real processes on the CPU, against one process with the same samples."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from child_processes import SECONDS, Child, started
from recording_run import RecordingRun
from safetensors.torch import load_file
from tiny_models import row

from trainer_svc.qlora.folder_files import is_whole
from trainer_svc.qlora.launch import child_environment, training_command
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Failed,
    FailureReason,
    Log,
    Metrics,
    Predicted,
    Progress,
    Started,
    Stop,
    Stopped,
    StopReason,
)
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.trainer import train

# Each starts several processes that import PyTorch, one after the other on a machine that is busy.
pytestmark = pytest.mark.timeout(900)
MakeJob = Callable[[TrainingSpec], Path]
TOLERANCE = 1e-4
"""What another order of additions may change, relative: measured 2e-6 here."""


@pytest.fixture
def spec(spec: TrainingSpec) -> TrainingSpec:
    """Nothing random but the order of samples."""
    return spec.with_overrides(["lora.dropout=0", "runtime.devices=2", "runtime.threads=2"])


def run_child(job: Path) -> Child:
    with started(lambda fd: training_command(job, fd), job / "stderr.txt") as child:
        assert child.finish() == 0, child.messages[-1]
    assert child.stderr == ""
    return child


def series(child: Child, name: str) -> dict[int, float]:
    return {
        each.step: each.values[name] for each in child.messages if isinstance(each, Metrics) and name in each.values
    }


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def rank_processes(child: Child) -> list[psutil.Process]:
    """The further ranks of a run."""
    return [
        process
        for process in psutil.Process(child.process.pid).children()
        if "trainer_svc.qlora.rank_child" in process.cmdline()
    ]


def test_two_processes_learn_what_one_learns_from_the_same_samples(
    job: MakeJob, spec: TrainingSpec, dataset: Path, new_run: Callable[..., RecordingRun]
) -> None:
    """Over epochs whose last step has one sample, so that a rank has none; ranks allocated on the way; held-out samples
    that do not divide evenly."""
    allocating = ["lora.rank_allocation.warmup_steps=3", "lora.rank_allocation.calibration_batches=2", "lora.rank=2"]
    spec = spec.with_overrides([*allocating, "evaluate_every_steps=2", "checkpoint_every_steps=0"])
    folder = job(spec)
    rows = (folder / "dataset" / "rows.jsonl").read_text().splitlines()[:5]
    rows += [json.dumps(row(f"e{index}", f"{index}.mp4", "colour?", "red", split="eval")) for index in range(5)]
    (folder / "dataset" / "rows.jsonl").write_text("\n".join(rows))

    child = run_child(folder)

    alone = new_run("alone", data=folder / "dataset")
    train(alone, spec.with_overrides(["runtime.devices=1", "runtime.threads=1"]))
    for name in ("loss", "grad_norm", "eval_loss", "learning_rate"):
        ours, theirs = series(child, name), alone.series(name)
        assert ours.keys() == theirs.keys()
        assert all(math.isclose(ours[step], theirs[step], rel_tol=TOLERANCE) for step in theirs), name
    ours, theirs = adapter(folder / "out"), adapter(alone.folders.out)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=1e-4)
    begun = next(message for message in child.messages if isinstance(message, Started))
    assert begun.device == "2 x CPU"
    assert sum("ranks allocated" in message.text for message in child.messages if isinstance(message, Log)) == 1


def test_ranks_that_torchrun_starts_learn_what_one_process_learns(
    spec: TrainingSpec, new_run: Callable[..., RecordingRun], tmp_path: Path
) -> None:
    spec = spec.with_overrides(["optimization.max_steps=3", "checkpoint_every_steps=0", "runtime.devices=1"])
    alone, out = new_run("alone"), tmp_path / "ranks"
    train(alone, spec.with_overrides(["runtime.threads=1"]))
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "trainer_svc.qlora", "--spec", str(tmp_path / "spec.json"), "--out", str(out)),
            *("--model", str(alone.folders.model), "--dataset", str(alone.folders.dataset)),
        ],
        env={**child_environment(threads=1), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "(2 x CPU, " in finished.stdout
    assert finished.stdout.count("completed after 3 steps") == 1, "one rank speaks for all"
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = {each["step"]: each["values"]["loss"] for each in losses if "loss" in each["values"]}
    assert told.keys() == alone.series("loss").keys()
    assert all(math.isclose(told[step], loss, rel_tol=TOLERANCE) for step, loss in alone.series("loss").items())
    for name, value in adapter(alone.folders.out).items():
        torch.testing.assert_close(adapter(out)[name], value, rtol=1e-2, atol=1e-4)


def test_ranks_meet_in_a_folder_that_is_named_from_here(
    qwen3: Path, dataset: Path, spec: TrainingSpec, tmp_path: Path
) -> None:
    """As the documentation has it; with a character that addresses have another use for."""
    spec = spec.with_overrides(["optimization.max_steps=1", "checkpoint_every_steps=0"])
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "trainer_svc.qlora", "--spec", "spec.json", "--out", "o#2"),
            *("--model", str(qwen3), "--dataset", str(dataset)),
        ],
        cwd=tmp_path,
        env={**child_environment(threads=1), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "completed after 1 steps" in finished.stdout
    assert is_whole(tmp_path / "o#2" / "adapter")


def test_a_stop_is_heard_while_a_rank_is_awaited_that_never_comes(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec)
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        deadline = time.monotonic() + SECONDS
        while not (others := rank_processes(child)):
            assert time.monotonic() < deadline
            assert child.process.poll() is None
        others[0].send_signal(signal.SIGSTOP)
        child.process.send_signal(signal.SIGTERM)
        assert child.finish() == 0
        assert not others[0].is_running()
    assert child.stderr == ""
    assert child.messages[-1] == Stopped(StopReason.DRAIN, 0, None, None, None)


def test_two_processes_begin_answer_and_end_early_as_one(
    job: MakeJob, spec: TrainingSpec, new_run: Callable[..., RecordingRun]
) -> None:
    """The first does what one does alone, and the others wait for it at the same places."""
    options = ["lora.initialization=eva", "sampling.placement=segment_jitter", "sample_predictions.count=1"]
    ending = [
        "evaluate_every_steps=1",
        "early_stopping.patience=1",
        "early_stopping.min_delta=100",
        "restore_best=true",
    ]
    spec = spec.with_overrides([*options, *ending, "evaluate_every_steps=1", "checkpoint_every_steps=0"])
    folder = job(spec)
    rows = (folder / "dataset" / "rows.jsonl").read_text().splitlines()[:4]
    rows += [json.dumps(row(f"e{index}", f"{index}.mp4", "colour?", "red", split="eval")) for index in range(3)]
    (folder / "dataset" / "rows.jsonl").write_text("\n".join(rows))

    child = run_child(folder)

    alone = new_run("alone", data=folder / "dataset")
    train(alone, spec.with_overrides(["runtime.devices=1", "runtime.threads=1"]))
    for name in ("loss", "eval_loss"):
        ours, theirs = series(child, name), alone.series(name)
        assert ours.keys() == theirs.keys() == {1, 2}
        assert all(math.isclose(ours[step], theirs[step], rel_tol=TOLERANCE) for step in theirs), name
    ends = [each for messages in (child.messages, alone.messages) for each in messages if isinstance(each, Completed)]
    assert [each.steps for each in ends] == [2, 2]
    assert all("has not fallen for 1 measurements" in each.early_end for each in ends)
    told = [[each for each in messages if isinstance(each, Predicted)] for messages in (child.messages, alone.messages)]
    for answers in told:
        assert [(each.step, len(each.best), len(each.worst)) for each in answers] == [(1, 1, 1), (2, 1, 1)]
    for name, value in adapter(alone.folders.out).items():
        torch.testing.assert_close(adapter(folder / "out")[name], value, rtol=1e-2, atol=1e-4)


def test_a_killed_rank_ends_the_run_and_the_next_goes_on_from_its_checkpoint(job: MakeJob, spec: TrainingSpec) -> None:
    """With dropout, so that every rank's random state counts: it ends as a run that was never killed."""
    spec = spec.with_overrides(
        ["lora.dropout=0.1", "optimization.epochs=6", "checkpoint_every_steps=1", "keep_checkpoints=30"]
    )
    folder = job(spec)
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        child.read_until(lambda message: isinstance(message, CheckpointSaved) and message.step == 3)
        helpers = psutil.Process(child.process.pid).children(recursive=True)
        (other,) = rank_processes(child)
        other.send_signal(signal.SIGKILL)
        assert child.finish() == 1
        _, alive = psutil.wait_procs(helpers, timeout=60)
        assert not alive
    failed = child.messages[-1]
    assert isinstance(failed, Failed)
    assert failed.reason is FailureReason.RANK_LOST
    assert "rank 1 of 2 was killed (SIGKILL" in failed.message
    checkpoints = folder / "out" / "checkpoints"
    done = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*") if is_whole(path))
    assert 3 <= done < 12

    resumed = run_child(folder)

    assert next(message for message in resumed.messages if isinstance(message, Started)).start_step == done
    broken = adapter(folder / "out")
    for left in (folder / "out").iterdir():
        left.rename(folder / left.name)
    run_child(folder)
    whole = adapter(folder / "out")
    assert all(torch.equal(broken[name], whole[name]) for name in whole)


def test_a_stop_reaches_all_ranks_between_the_same_two_steps(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec.with_overrides(["optimization.epochs=10000", "checkpoint_every_steps=0"]))
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        child.read_kind(Progress)
        child.send(Stop(StopReason.USER))
        stopped = child.read_kind(Stopped)
        assert child.finish() == 0
    assert child.stderr == ""
    assert stopped.step >= 1
    assert is_whole(folder / "out" / "adapter")
    assert stopped.checkpoint is not None


def test_a_stop_reaches_all_ranks_in_the_midst_of_a_measurement(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec.with_overrides(["evaluate_every_steps=1", "checkpoint_every_steps=0"]))
    with (folder / "dataset" / "rows.jsonl").open("a") as rows:
        # Many more than are measured while the order is on its way, and an odd number of batches.
        for index in range(30_001):
            rows.write(json.dumps(row(f"e{index}", f"{index % 8}.mp4", "colour?", "red", split="eval")) + "\n")
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        child.read_kind(Progress)
        child.send(Stop(StopReason.USER))
        stopped = child.read_kind(Stopped)
        assert child.finish() == 0
    assert child.stderr == ""
    assert stopped.step == 1
    assert is_whole(folder / "out" / "adapter")
    assert not series(child, "eval_loss")
    assert json.loads((Path(str(stopped.checkpoint)) / "state.json").read_bytes())["owes_evaluation"]


def test_what_another_rank_finds_wrong_is_told_as_it_found_it(job: MakeJob, spec: TrainingSpec) -> None:
    """Whichever rank meets the bad clip: in 8 samples of 2 ranks both do before the second epoch."""
    uncached = ["runtime.frame_cache_mib=0", "runtime.encoder_cache=off"]
    folder = job(spec.with_overrides(["optimization.epochs=4", *uncached]))
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        child.read_kind(Progress)
        for clip in (folder / "dataset" / "clips").iterdir():
            clip.write_bytes(b"no clip")
        assert child.finish() == 1
    failed = child.messages[-1]
    assert isinstance(failed, Failed)
    assert failed.reason is FailureReason.BAD_DATA
    assert failed.message.startswith("sample s")


def test_a_rank_that_never_joins_does_not_keep_the_others(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec)
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        deadline = time.monotonic() + SECONDS
        while not (others := rank_processes(child)):
            assert time.monotonic() < deadline
            assert child.process.poll() is None
        others[0].send_signal(signal.SIGKILL)
        assert child.finish() == 1
    assert isinstance(child.messages[-1], Failed)
    assert child.messages[-1].reason is FailureReason.RANK_LOST
    assert not any(isinstance(message, Completed) for message in child.messages)


def test_a_base_that_is_shared_out_learns_the_same_and_goes_on_from_its_checkpoint(
    job: MakeJob, spec: TrainingSpec, new_run: Callable[..., RecordingRun]
) -> None:
    """Over steps and held-out samples that leave a rank without a batch while the other needs its share of the base."""
    spec = spec.with_overrides(
        [
            "runtime.sharding=on",
            "checkpoint_every_steps=3",
            "evaluate_every_steps=2",
            "lora.target_groups=language,vision",
        ]
    )
    folder = job(spec)
    rows = (folder / "dataset" / "rows.jsonl").read_text().splitlines()[:5]
    rows += [json.dumps(row(f"e{index}", f"{index}.mp4", "colour?", "red", split="eval")) for index in range(5)]
    (folder / "dataset" / "rows.jsonl").write_text("\n".join(rows))

    child = run_child(folder)

    (told,) = (message.text for message in child.messages if isinstance(message, Log) and "shared out" in message.text)
    assert "50% of its layers" in told
    alone = new_run("alone", data=folder / "dataset")
    train(alone, spec.with_overrides(["runtime.devices=1", "runtime.threads=1"]))
    for name in ("loss", "grad_norm", "eval_loss"):
        ours, theirs = series(child, name), alone.series(name)
        assert ours.keys() == theirs.keys()
        assert all(math.isclose(ours[step], theirs[step], rel_tol=TOLERANCE) for step in theirs), name
    whole = adapter(folder / "out")
    assert whole.keys() == adapter(alone.folders.out).keys()

    again = run_child(folder)

    assert next(message for message in again.messages if isinstance(message, Started)).start_step == 3
    resumed = adapter(folder / "out")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_ranks_are_not_allocated_over_a_base_that_is_shared_out(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec.with_overrides(["runtime.sharding=on", "lora.rank_allocation.warmup_steps=2"]))
    with started(lambda fd: training_command(folder, fd), folder / "stderr.txt") as child:
        assert child.finish() == 1
    failed = child.messages[-1]
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.message.split(":")[0]) == (FailureReason.BAD_SPEC, "base_sharing")
