"""Rehearsals in processes of their own, spoken with as a trainer does."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meshkit.testing import assert_eventually
from tests.integration.qlora.child_processes import Child, started
from trainer_svc.qlora.folder_files import is_whole
from trainer_svc.qlora.messages import (
    CheckpointSaved,
    Completed,
    Failed,
    FailureReason,
    Log,
    MessageError,
    Metrics,
    Progress,
    Started,
    Starting,
    Stop,
    Stopped,
    StopReason,
)
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.rehearsal.launch import rehearsal_command

ENDLESS = 10_000_000


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job's folder with a model and a dataset of which nothing is what it says."""
    job = tmp_path / "job"
    (job / "model").mkdir(parents=True)
    (job / "model" / "config.json").write_text('{"model_type": "tiny"}')
    (job / "model" / "model.safetensors").write_bytes(b"weights")
    (job / "dataset" / "clips").mkdir(parents=True)
    (job / "dataset" / "clips" / "a.mp4").write_bytes(b"clip")
    content = [{"type": "video", "uri": "clips/a.mp4"}, {"type": "text", "text": "What?"}]
    row = {"sample_id": "s1", "split": "train", "messages": [{"role": "user", "content": content}]}
    (job / "dataset" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return job


@contextlib.contextmanager
def rehearsing(job: Path, *, steps: int = 6, every: int = 0, **own: object) -> Iterator[Child]:
    spec = TrainingSpec.from_dict({"optimization": {"max_steps": steps}, "checkpoint_every_steps": every}).to_dict()
    (job / "spec.json").write_text(json.dumps({**spec, "rehearsal": own}))
    with started(lambda fd: rehearsal_command(job, fd), job.parent / "stderr") as child:
        yield child


def misbehaving(kind: str, at_step: int = 2, **more: object) -> dict[str, object]:
    return {"misbehaviors": [{"kind": kind, "at_step": at_step, **more}]}


def adapter(job: Path) -> bytes:
    assert is_whole(job / "out" / "adapter")
    return (job / "out" / "adapter" / "adapter_model.safetensors").read_bytes()


def test_it_tells_all_that_a_training_tells(job: Path) -> None:
    with rehearsing(job, steps=5, every=2, artifact_bytes=3_000_000, checkpoint_bytes=1000) as child:
        assert child.finish() == 0

    told = child.messages
    assert [message.phase for message in told if isinstance(message, Starting)][:3] == ["dataset", "model", "adapter"]
    assert [message.step for message in told if isinstance(message, Progress)] == [1, 2, 3, 4, 5]
    assert [message.step for message in told if isinstance(message, CheckpointSaved)] == [2, 4]
    losses = [message.values["loss"] for message in told if isinstance(message, Metrics) and "loss" in message.values]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert [message.step for message in told if isinstance(message, Metrics) and "eval_loss" in message.values] == [5]
    assert isinstance(told[-1], Completed)
    assert len(adapter(job)) > 3_000_000


def test_a_resumed_run_makes_the_adapter_of_an_unbroken_one(job: Path) -> None:
    with rehearsing(job, artifact_bytes=5000) as child:
        assert child.finish() == 0
    unbroken = adapter(job)

    with rehearsing(job, every=2, artifact_bytes=5000, **misbehaving("EXIT", 5, attempts=1)) as child:
        child.finish()
    with rehearsing(job, every=2, artifact_bytes=5000, attempt=2, **misbehaving("EXIT", 5, attempts=1)) as child:
        assert child.read_kind(Started).start_step == 4
        assert child.finish() == 0

    assert adapter(job) == unbroken


def test_another_seed_makes_another_adapter(job: Path) -> None:
    with rehearsing(job) as child:
        child.finish()
    before = (job / "out" / "adapter" / "rehearsal.json").read_bytes()
    spec = json.loads((job / "spec.json").read_bytes())
    spec["optimization"]["seed"] += 1
    (job / "spec.json").write_text(json.dumps(spec))
    with started(lambda fd: rehearsal_command(job, fd), job.parent / "stderr") as child:
        child.finish()

    assert (job / "out" / "adapter" / "rehearsal.json").read_bytes() != before


def test_a_damaged_checkpoint_is_passed_over(job: Path) -> None:
    with rehearsing(job, every=2, checkpoint_bytes=1000, **misbehaving("EXIT", 5)) as child:
        child.finish()
    newest = job / "out" / "checkpoints" / "step-00000004" / "rehearsal.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")

    with rehearsing(job, every=2) as child:
        assert child.read_kind(Started).start_step == 2


def test_another_runs_checkpoint_is_refused(job: Path) -> None:
    with rehearsing(job, every=2) as child:
        child.finish()
    with rehearsing(job, steps=7) as child:
        assert child.finish() == 1

    assert isinstance(child.messages[-1], Failed)
    assert child.messages[-1].reason is FailureReason.CHECKPOINT_MISMATCH


def test_a_stop_saves_adapter_and_checkpoint_and_a_drain_the_checkpoint_alone(job: Path) -> None:
    for reason in (StopReason.USER, StopReason.DRAIN):
        with rehearsing(job, steps=ENDLESS, step_milliseconds=1) as child:
            child.read_kind(Progress)
            child.send(Stop(reason))
            stopped = child.read_kind(Stopped)
            assert child.finish() == 0
        assert stopped.reason is reason
        assert stopped.checkpoint is not None
        assert is_whole(Path(stopped.checkpoint))
        assert (stopped.adapter_dir is not None) == (reason is StopReason.USER)


def test_sigterm_ends_it_at_the_step_boundary(job: Path) -> None:
    with rehearsing(job, steps=ENDLESS, step_milliseconds=50) as child:
        done = child.read_kind(Progress).step
        child.process.send_signal(signal.SIGTERM)
        stopped = child.read_kind(Stopped)

    assert stopped.reason is StopReason.DRAIN
    assert done <= stopped.step <= done + 1


def test_it_costs_next_to_nothing(job: Path) -> None:
    """The harness lives on it: thousands of jobs in a run. The processor's time, which others on the machine hardly
    change; PyTorch alone would take some seconds of it."""
    before = _seconds_of_children()
    with rehearsing(job, steps=1) as child:
        child.read_kind(Completed)
        child.finish()
    assert _seconds_of_children() - before < 1.0


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("OUT_OF_MEMORY", FailureReason.OUT_OF_MEMORY),
        ("NON_FINITE_LOSS", FailureReason.NON_FINITE_LOSS),
        ("BAD_DATA", FailureReason.BAD_DATA),
    ],
)
def test_it_fails_as_told(job: Path, kind: str, reason: FailureReason) -> None:
    with rehearsing(job, **misbehaving(kind)) as child:
        assert child.finish() == 1

    assert isinstance(child.messages[-1], Failed)
    assert child.messages[-1].reason is reason
    assert [message.step for message in child.messages if isinstance(message, Progress)] == [1, 2]


@pytest.mark.parametrize(("kind", "code"), [("CRASH", -signal.SIGSEGV), ("EXIT", 0)])
def test_it_ends_without_a_word_as_told(job: Path, kind: str, code: int) -> None:
    with rehearsing(job, **misbehaving(kind)) as child:
        assert child.finish() == code

    assert not isinstance(child.messages[-1], Failed | Completed)


def test_a_hanging_one_breathes_and_does_not_move(job: Path) -> None:
    with rehearsing(job, **misbehaving("HANG")) as child:
        child.read_until(lambda message: isinstance(message, Log) and message.text == "still here")
        child.read_until(lambda message: isinstance(message, Log) and message.text == "still here")

    assert [message.step for message in child.messages if isinstance(message, Progress)] == [1, 2]


def test_nonsense_is_no_message(job: Path) -> None:
    with rehearsing(job, **misbehaving("NONSENSE")) as child, pytest.raises(MessageError):
        child.finish()


@pytest.mark.parametrize("kind", ["SPIN", "IGNORE_ORDERS"])
async def test_a_deaf_one_neither_obeys_nor_dies_of_sigterm(job: Path, kind: str) -> None:
    with rehearsing(job, steps=ENDLESS, step_milliseconds=5, **misbehaving(kind)) as child:
        child.read_until(lambda message: isinstance(message, Progress) and message.step == 2)
        process = psutil.Process(child.process.pid)
        used = process.cpu_times().user
        child.send(Stop(StopReason.USER))
        child.process.send_signal(signal.SIGTERM)
        if kind == "SPIN":
            await assert_eventually(lambda: process.cpu_times().user > used + 0.3)
        else:
            child.read_until(lambda message: isinstance(message, Progress) and message.step == 20)
        assert child.process.poll() is None


def test_one_that_stops_slowly_takes_the_time_of_ten_steps(job: Path) -> None:
    with rehearsing(job, steps=ENDLESS, step_milliseconds=30, **misbehaving("SLOW_STOP", 1)) as child:
        child.read_kind(Progress)
        began = time.monotonic()
        child.send(Stop(StopReason.USER))
        child.read_kind(Stopped)

    assert time.monotonic() - began >= 0.3


def test_it_kills_the_process_that_started_it_and_no_other(job: Path) -> None:
    """A parent of its own: the tests' process must live on."""
    spec = TrainingSpec.from_dict({"optimization": {"max_steps": 5}}).to_dict()
    (job / "spec.json").write_text(json.dumps({**spec, "rehearsal": misbehaving("KILL_WORKER")}))
    script = (
        "import socket, subprocess, sys, pathlib\n"
        "from trainer_svc.rehearsal.launch import rehearsal_command\n"
        "ours, theirs = socket.socketpair()\n"
        "child = subprocess.Popen(rehearsal_command(pathlib.Path(sys.argv[1]), theirs.fileno()),"
        " pass_fds=(theirs.fileno(),))\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(job)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        assert parent.wait(60) == -signal.SIGKILL
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
