"""What a job needs: a tiny Qwen3-VL-architecture model with random weights, and clips with questions and answers."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from reeltune.catalog.v1 import dataset_pb2, dataset_service_pb2, model_pb2, model_service_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2

from reeltune_cli.client import Client
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset, watch_model

_MAKE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Material:
    """Two folders as a user has them."""

    model: Path
    dataset: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the annotation file: `video`, `question`, `answer`, `split`."""
        with (self.dataset / "annotations.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def clips(self) -> list[Path]:
        """The clip files."""
        return sorted((self.dataset / "clips").iterdir())


def make_material(folder: Path, clips: int = 12) -> Material:
    """Writes the model and the clips; two questions are asked about each clip."""
    material = Material(folder / "model", folder / "dataset")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.tiny_material", str(material.model), str(material.dataset), str(clips)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=_MAKE_SECONDS,
    )
    # The trainer's own form of the rows: a dataset has one annotation file.
    (material.dataset / "rows.jsonl").unlink()
    return material


def first_clips(material: Material, folder: Path, count: int = 2, held_out: int = 0) -> Path:
    """Writes a dataset of the first clips alone, with their rows, and returns its folder; the rows of the last
    `held_out` of them are in the split `eval`."""
    names = [f"clips/{clip.name}" for clip in material.clips[:count]]
    kept = {name: "eval" if place >= count - held_out else "train" for place, name in enumerate(names)}
    (folder / "clips").mkdir(parents=True)
    for video in kept:
        shutil.copy(material.dataset / video, folder / video)
    columns = ("video", "question", "answer", "split")
    with (folder / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        rows = ({**row, "split": kept[row["video"]]} for row in material.rows if row["video"] in kept)
        writer.writerows([row[name] for name in columns] for row in rows)
    return folder


async def register_model(client: Client, folder: Path, name: str = "tiny") -> model_pb2.Model:
    """Uploads a model and returns it as its validation left it."""
    model = (await client.models.CreateModel(model_service_pb2.CreateModelRequest(name=name))).model
    await upload_folder(client, model.id, folder)
    await client.models.ValidateModel(model_service_pb2.ValidateModelRequest(model_id=model.id))
    async with asyncio.timeout(240):
        async for seen in watch_model(client, model.id):
            model = seen
    return model


async def register_dataset(client: Client, folder: Path, name: str = "clips") -> dataset_pb2.Dataset:
    """Uploads a dataset and returns it as its validation left it."""
    dataset = (await client.datasets.CreateDataset(dataset_service_pb2.CreateDatasetRequest(name=name))).dataset
    await upload_folder(client, dataset.id, folder)
    await client.datasets.ValidateDataset(dataset_service_pb2.ValidateDatasetRequest(dataset_id=dataset.id))
    async with asyncio.timeout(240):
        async for seen in watch_dataset(client, dataset.id):
            dataset = seen
    return dataset


def parameters(
    max_steps: int, *, batch_size: int = 4, checkpoint_every_steps: int = 2
) -> parameters_pb2.TrainingParameters:
    """Parameters of a job of seconds: NF4, rank 8."""
    return parameters_pb2.TrainingParameters(
        lora=parameters_pb2.LoraParameters(rank=8, alpha=16, dropout=0.0),
        sampling=parameters_pb2.SamplingParameters(max_frames=4),
        optimization=parameters_pb2.OptimizationParameters(
            max_steps=max_steps,
            batch_size=batch_size,
            gradient_accumulation_steps=1,
            learning_rate=1e-2,
            gradient_checkpointing=False,
        ),
        checkpoint_every_steps=checkpoint_every_steps,
    )
