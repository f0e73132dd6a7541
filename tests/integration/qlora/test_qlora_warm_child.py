"""One training process, job after job: each as in a process of its own, or not at all."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import psutil
import pytest
import torch
from child_processes import SECONDS, Child, started
from tiny_models import save_qwen3_vl

from trainer_svc.qlora.launch import training_command, warm_command
from trainer_svc.qlora.messages import (
    Completed,
    Failed,
    FailureReason,
    Idle,
    Metrics,
    Progress,
    Stop,
    Stopped,
    StopReason,
    Train,
)
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.model_snapshot import ModelSnapshot
from trainer_svc.qlora.qlora_injector import inject
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE
from trainer_svc.qlora.spec import QuantizationSpec, TrainingSpec

MakeJob = Callable[..., Path]


@pytest.fixture
def new_job(qwen3: Path, dataset: Path, tmp_path: Path) -> MakeJob:
    def make(name: str, spec: TrainingSpec, model: Path = qwen3) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model").symlink_to(model)
        shutil.copytree(dataset, folder / "dataset")
        (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
        return folder

    return make


def train_next(child: Child, job: Path) -> dict[str, bytes]:
    """Trains one more job to its end; the files of its adapter."""
    child.messages.clear()
    child.send(Train(str(job)))
    child.read_kind(Idle)
    assert isinstance(child.messages[-2], Completed), child.messages[-3:]
    return adapter_files(job)


def adapter_files(job: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((job / "out" / "adapter").iterdir())}


def losses(child: Child) -> list[float]:
    return [each.values["loss"] for each in child.messages if isinstance(each, Metrics) and "loss" in each.values]


def test_each_job_is_the_one_that_a_process_of_its_own_would_train(
    new_job: MakeJob, spec: TrainingSpec, tmp_path: Path
) -> None:
    """After jobs that put other adapters, hooks and flags into the model, and one on another model."""
    wanted = spec.with_overrides(["lora.dropout=0.2", "optimization.max_steps=3", "checkpoint_every_steps=0"])
    cold = new_job("cold", wanted)
    with started(lambda fd: training_command(cold, fd), tmp_path / "cold.txt") as child:
        assert child.finish() == 0
        expected = losses(child)
    one_step = wanted.with_overrides(["optimization.max_steps=1"])
    others = [
        one_step.with_overrides(["lora.target_groups=language,projector,vision", "lora.temporal_groups=vision"]),
        one_step.with_overrides(["optimization.gradient_checkpointing=false", "lora.use_rslora=true"]),
    ]

    with started(warm_command, tmp_path / "warm.txt") as child:
        for index, other in enumerate(others):
            train_next(child, new_job(f"other-{index}", other))
            ours = train_next(child, new_job(f"warm-{index}", wanted))
            assert losses(child) == expected
            assert ours == adapter_files(cold)
        another = save_qwen3_vl(tmp_path / "another")
        config = json.loads((another / "config.json").read_text())
        (another / "config.json").write_text(json.dumps(config | {"name": "another"}))
        train_next(child, new_job("another-job", one_step, another))
        assert train_next(child, new_job("again", wanted)) == adapter_files(cold)
        left = [each.cmdline() for each in psutil.Process(child.process.pid).children()]
        # What multiprocessing keeps for itself, from one pool to the next.
        assert all(any("resource_tracker" in word for word in words) for words in left), left
    assert (tmp_path / "warm.txt").read_text() == ""


def test_a_process_whose_job_was_stopped_or_failed_ends_with_it(
    new_job: MakeJob, spec: TrainingSpec, tmp_path: Path
) -> None:
    endless = spec.with_overrides(["optimization.epochs=10000", "checkpoint_every_steps=0"])
    with started(warm_command, tmp_path / "stopped.txt") as child:
        child.send(Train(str(new_job("stopped", endless))))
        child.read_kind(Progress)
        child.send(Stop(StopReason.USER))
        stopped = child.read_kind(Stopped)
        assert child.finish() == 0
        assert child.messages[-1] is stopped
    broken = new_job("broken", spec)
    (broken / "dataset" / "rows.jsonl").write_text("no row")
    with started(warm_command, tmp_path / "failed.txt") as child:
        child.send(Train(str(broken)))
        assert child.read_kind(Failed).reason is FailureReason.BAD_DATA
        assert child.finish() == 1


def test_an_idle_process_ends_with_its_trainer_and_at_sigterm(tmp_path: Path) -> None:
    with started(warm_command, tmp_path / "orphan.txt") as child:
        child.hang_up()
        assert child.process.wait(SECONDS) == ORPHAN_EXIT_CODE
    with started(warm_command, tmp_path / "term.txt") as child:
        while signal.SIGTERM not in caught_by(child.process.pid):
            assert child.process.poll() is None
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(SECONDS) == 0


def caught_by(pid: int) -> set[int]:
    """The signals that a process handles by itself."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 32) if mask >> (number - 1) & 1}


def test_a_snapshot_undoes_what_training_does_to_a_model_and_sees_a_weight_that_changed(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    snapshot = ModelSnapshot(base.model)
    before = description(base.model)
    spec = TrainingSpec().with_overrides(["lora.target_groups=language,vision", "lora.temporal_groups=vision"])
    inject(base, spec.lora, seed=0, gradient_checkpointing=True)
    base.model.config.use_cache = "changed"
    base.model.eval()
    assert description(base.model) != before

    assert snapshot.restore()
    assert description(base.model) == before

    layer = next(module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit))
    layer.weight.data[3] ^= 1
    assert not snapshot.restore()
    layer.weight.data[3] ^= 1
    assert snapshot.restore()
    layer.weight.quant_state.absmax[0] += 1
    assert not snapshot.restore()


def description(model: torch.nn.Module) -> list[object]:
    """All that a training could have left in a model."""
    return [model.config.to_dict()] + [
        (
            name,
            type(module),
            module.training,
            sorted(module.__dict__),
            [len(value) for key, value in sorted(module.__dict__.items()) if "hooks" in key and value is not None],
            [(key, value.requires_grad, value.grad is None) for key, value in module.named_parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    ]
