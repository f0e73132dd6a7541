"""One real QLoRA job through the whole trainer, with the training library's own children, and questions afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from reeltune.scheduler.v1 import artifact_pb2, training_parameters_pb2
from reeltune.trainer.v1 import inference_service_pb2 as pb
from reeltune.trainer.v1.inference_service_pb2_grpc import InferenceServiceStub

from meshkit.rpc.client import open_channel
from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer
from tests.rpc.trainer.mesh_doubles import DATASET, JOB, Catalog, FileStore, job
from tests.rpc.trainer.running_mesh import Mesh
from tests.rpc.trainer.tiny_catalog import tiny_catalog


@pytest.fixture
def catalog(store: FileStore, tmp_path: Path) -> Catalog:
    return tiny_catalog(store, tmp_path)


def parameters() -> dict[str, object]:
    """Enough to learn a colour by heart."""
    return {
        "lora": training_parameters_pb2.LoraParameters(rank=8, alpha=16, dropout=0.0),
        "sampling": training_parameters_pb2.SamplingParameters(max_frames=4),
        "optimization": training_parameters_pb2.OptimizationParameters(
            learning_rate=0.01, batch_size=4, epochs=20, gradient_checkpointing=False
        ),
        "checkpoint_every_steps": 8,
    }


async def ask(stub: InferenceServiceStub, mesh: Mesh, clip: str, question: str) -> dict[int, str]:
    """Both answers, by responder."""
    request = pb.GenerateRequest(
        job_id=JOB,
        dataset_clip=pb.DatasetClip(dataset_id=DATASET, path=clip),
        prompt=question,
        responder=pb.RESPONDER_BOTH,
        max_new_tokens=8,
    )
    pieces: dict[int, str] = {}
    ends: dict[int, str] = {}
    async for response in stub.Generate(request, metadata=mesh.auth.user()):
        if response.HasField("end"):
            ends[response.responder] = response.end.text
        else:
            pieces[response.responder] = pieces.get(response.responder, "") + response.text
    assert {responder: pieces.get(responder, "") for responder in ends} == ends
    return ends


async def test_a_real_job_is_trained_and_its_adapter_answers(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    submitted = job(**parameters())
    mesh.scheduler.waiting.append(submitted)
    mesh.jobs.jobs[JOB] = submitted
    trainer = await start_trainer()

    await assert_eventually(lambda: mesh.scheduler.completed or mesh.scheduler.failed, timeout=150)

    assert not mesh.scheduler.failed, mesh.scheduler.failed
    (completed,) = mesh.scheduler.completed
    losses = [r.metrics.values["loss"] for r in mesh.scheduler.reports() if r.HasField("metrics")]
    assert completed.progress.step == completed.progress.total_steps == len(losses)
    assert losses[-1] < losses[0] / 2
    hits = [r.metrics.values["encoder_cache_hit_fraction"] for r in mesh.scheduler.reports() if r.HasField("metrics")]
    assert (hits[0], hits[-1]) == (0.0, 1.0)
    # Where the next job will find them: its own folder is gone by now.
    assert list(tmp_path.rglob("cache/children/encoder_outputs/*/*.safetensors"))
    assert mesh.scheduler.committed[-1].step % 8 == 0
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {file.path for file in completed.files}

    mesh.jobs.artifacts[JOB] = artifact_of(mesh, completed.files)
    rows = mesh.catalog.samples
    async with open_channel(await trainer.address()) as channel:
        stub = InferenceServiceStub(channel)
        right = {pb.RESPONDER_BASE: 0, pb.RESPONDER_TUNED: 0}
        for row in rows:
            clip, question = (part for part in row.messages[0].content)
            answers = await ask(stub, mesh, clip.video.path, question.text)
            for responder, answer in answers.items():
                right[responder] += answer.strip() == row.messages[1].content[0].text
    assert right[pb.RESPONDER_TUNED] == len(rows)
    assert right[pb.RESPONDER_BASE] == 0
    # One child answered all of them.
    assert len(trainer.events("inference.ready")) == 1


def artifact_of(mesh: Mesh, files) -> artifact_pb2.Artifact:
    """What the attempt published, to read from."""
    return artifact_pb2.Artifact(
        job_id=JOB,
        files=[
            artifact_pb2.ArtifactFile(
                path=file.path,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                url=mesh.store.url(f"jobs/{JOB}/{file.path}"),
            )
            for file in files
        ],
    )
