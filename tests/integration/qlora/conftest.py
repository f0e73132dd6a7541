"""Tiny models, clips and runs for the training library's tests. Everything is made here; nothing is fetched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_svc.qlora.quiet import quiet_libraries

quiet_libraries(threads=1)

import torch  # noqa: E402
from recording_run import RecordingRun  # noqa: E402
from tiny_models import save_qwen2_5_vl, save_qwen3_vl, write_dataset  # noqa: E402

from trainer_svc.qlora.quiet import quiet_transformers  # noqa: E402
from trainer_svc.qlora.spec import TrainingSpec  # noqa: E402
from trainer_svc.qlora.trainer import train  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    quiet_transformers()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """For the session: fixtures that train do it on one thread, too; with more, sums differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="session")
def qwen2_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5_vl"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 clips of a red or blue bar with their colour as the answer."""
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def spec() -> TrainingSpec:
    """6 steps: 3 epochs of 2 steps over 8 samples, with dropout, a schedule and checkpointing of activations."""
    return TrainingSpec().with_overrides(
        [
            "lora.rank=4",
            "lora.dropout=0.1",
            "optimization.batch_size=2",
            "optimization.gradient_accumulation_steps=2",
            "optimization.epochs=3",
            "optimization.seed=42",
            "optimization.learning_rate=0.01",
            "sampling.max_frames=4",
            "checkpoint_every_steps=2",
            "keep_checkpoints=10",
        ]
    )


@pytest.fixture
def new_run(qwen3: Path, dataset: Path, tmp_path: Path) -> Callable[..., RecordingRun]:
    """Makes runs on the tiny Qwen3-VL; each name has its own out folder."""

    def make(name: str = "out", model: Path = qwen3, data: Path = dataset) -> RecordingRun:
        return RecordingRun(model, data, tmp_path / name)

    return make


@pytest.fixture
def job(qwen3: Path, dataset: Path, tmp_path: Path) -> Callable[[TrainingSpec], Path]:
    """Lays out a job folder as the trainer service does."""

    def make(spec: TrainingSpec) -> Path:
        folder = tmp_path / "job"
        folder.mkdir()
        (folder / "model").symlink_to(qwen3)
        shutil.copytree(dataset, folder / "dataset")
        value: dict[str, Any] = spec.to_dict()
        (folder / "spec.json").write_text(json.dumps(value))
        return folder

    return make


@pytest.fixture(scope="session")
def colour_adapter(qwen3: Path, dataset: Path, spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says red of red clips and blue of blue ones."""
    run = RecordingRun(qwen3, dataset, tmp_path_factory.mktemp("tuned"))
    enough = ["optimization.epochs=20", "optimization.learning_rate=0.003", "lora.rank=16", "checkpoint_every_steps=0"]
    train(run, spec.with_overrides(enough))
    return run.folders.adapter
