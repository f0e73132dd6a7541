from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from child_processes import SECONDS, Child, started
from recording_run import RecordingRun
from safetensors.torch import load_file

from trainer_svc.qlora.folder_files import is_whole
from trainer_svc.qlora.launch import child_environment, training_command
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Failed,
    FailureReason,
    Progress,
    Started,
    Stop,
    Stopped,
    StopReason,
)
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.trainer import train

MakeJob = Callable[[TrainingSpec], Path]


@contextmanager
def training(job: Path) -> Iterator[Child]:
    with started(lambda fd: training_command(job, fd), job / "stderr.txt") as child:
        yield child


def endless(spec: TrainingSpec) -> TrainingSpec:
    return spec.with_overrides(["optimization.epochs=10000", "checkpoint_every_steps=0"])


def whole_checkpoints(job: Path) -> list[Path]:
    return sorted(path for path in (job / "out" / "checkpoints").glob("step-*") if is_whole(path))


def test_kill_9_leaves_a_valid_checkpoint_and_the_next_attempt_ends_as_if_nothing_had_happened(
    job: MakeJob, spec: TrainingSpec, new_run: Callable[..., RecordingRun]
) -> None:
    spec = spec.with_overrides(["optimization.epochs=8", "checkpoint_every_steps=1", "keep_checkpoints=2"])
    folder = job(spec)
    with training(folder) as child:
        child.read_until(lambda message: isinstance(message, CheckpointSaved) and message.step == 3)
        helpers = psutil.Process(child.process.pid).children(recursive=True)
        child.process.kill()
        assert child.process.wait(SECONDS) == -signal.SIGKILL
        assert helpers
        _, alive = psutil.wait_procs(helpers, timeout=60)
        assert not alive, "decode processes outlive their parent"
    newest = whole_checkpoints(folder)[-1]
    done = int(newest.name.removeprefix("step-"))
    assert 3 <= done < 16

    with training(folder) as child:
        assert child.finish() == 0
        assert isinstance(child.messages[-1], Completed)
        assert next(message for message in child.messages if isinstance(message, Started)).start_step == done
        assert child.stderr == ""
    unbroken = new_run("unbroken")
    train(unbroken, spec)
    ours, theirs = (
        load_file(out / "adapter" / "adapter_model.safetensors") for out in (folder / "out", unbroken.folders.out)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_then_a_stop_with_the_adapter_so_far(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(endless(spec).with_overrides(["checkpoint_every_steps=1"]))
    with training(folder) as child:
        saved = child.read_kind(CheckpointSaved)
        child.send(Stop(StopReason.USER))
        stopped = child.read_kind(Stopped)
        assert child.finish() == 0
        assert child.messages[-1] is stopped
    assert stopped.reason is StopReason.USER
    assert stopped.step >= saved.step >= 1
    assert stopped.adapter_dir == str(folder / "out" / "adapter")
    assert is_whole(folder / "out" / "adapter")
    assert child.stderr == ""


def test_sigterm_drains_at_the_step_boundary(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(endless(spec))
    with training(folder) as child:
        child.read_kind(Progress)
        child.process.send_signal(signal.SIGTERM)
        stopped = child.read_kind(Stopped)
        assert child.finish() == 0
    assert (stopped.reason, stopped.adapter_dir) == (StopReason.DRAIN, None)
    assert stopped.checkpoint == str(whole_checkpoints(folder)[-1])
    assert child.stderr == ""


def test_a_child_whose_parent_is_gone_ends_by_itself(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(endless(spec))
    with training(folder) as child:
        child.read_kind(Progress)
        child.hang_up()
        assert child.process.wait(60) == ORPHAN_EXIT_CODE


def test_a_bad_specification_is_a_typed_failure(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec)
    value = json.loads((folder / "spec.json").read_text())
    value["lora"]["rank"] = 0
    (folder / "spec.json").write_text(json.dumps(value))
    with training(folder) as child:
        assert child.finish() == 1
    assert child.messages == [
        Failed(FailureReason.BAD_SPEC, "lora.rank: 0 is out of range", "give a value from 1 to 1024")
    ]


def test_a_model_with_a_pickle_is_a_typed_failure_and_its_code_never_runs(job: MakeJob, spec: TrainingSpec) -> None:
    folder = job(spec)
    model = (folder / "model").resolve()
    (folder / "model").unlink()
    (folder / "model").mkdir()
    for file in model.iterdir():
        (folder / "model" / file.name).symlink_to(file)
    canary = folder / "canary"
    (folder / "model" / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    with training(folder) as child:
        assert child.finish() == 1
    failed = child.messages[-1]
    assert isinstance(failed, Failed)
    assert failed.reason is FailureReason.MODEL_UNSUPPORTED
    assert "modeling_evil.py" in failed.message
    assert not canary.exists()


def local_command(model: Path, dataset: Path, out: Path, *more: str) -> list[str]:
    options = ["--model", str(model), "--dataset", str(dataset), "--out", str(out)]
    fields = [
        "optimization.epochs=2",
        "optimization.batch_size=8",
        "optimization.learning_rate=0.01",
        "runtime.threads=1",
    ]
    settings = [word for field in fields for word in ("--set", field)]
    return [sys.executable, "-m", "trainer_svc.qlora", *options, *settings, *more]


def test_the_same_training_runs_from_one_command_with_no_cluster(qwen3: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = subprocess.run(
        local_command(qwen3, dataset, out, "--set", "lora.rank=8", "--set", "eval_fraction=0.25"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=dict(os.environ),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "starting: dataset"
    assert lines[-1].startswith("completed after 2 steps")
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == 8
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics if "loss" in entry["values"]] == [1, 2]
    assert any("eval_loss" in entry["values"] for entry in metrics)


def test_ctrl_c_keeps_the_adapter_made_so_far(qwen3: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = local_command(qwen3, dataset, out, "--set", "optimization.max_steps=100000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + SECONDS
            while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert errors == ""
    assert output.splitlines()[-1].startswith("stopped (user)")
    assert is_whole(out / "adapter")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--set", "lora.rank=0"], 2, "lora.rank: 0 is out of range"),
        (["--set", "lora.size=1"], 2, "lora.size: unknown field"),
        (["--dataset", "/nonexistent"], 1, "failed: BAD_DATA: rows.jsonl cannot be read"),
        (["--model", "/nonexistent"], 1, "failed: MODEL_UNSUPPORTED: /nonexistent is no folder"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    qwen3: Path, dataset: Path, tmp_path: Path, change: list[str], code: int, words: str
) -> None:
    command = local_command(qwen3, dataset, tmp_path / "out", *change)
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=child_environment(1))
    assert result.returncode == code
    assert (result.stderr or result.stdout).splitlines()[-1].startswith(words)
    assert "Traceback" not in result.stdout + result.stderr
