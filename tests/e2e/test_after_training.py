"""What follows a training, through the edge: its adapter evaluated and merged, as jobs of the same queue."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reeltune.scheduler.v1 import evaluation_pb2 as evaluation
from reeltune.scheduler.v1 import post_training_service_pb2 as pb
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_options_pb2 as options
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from reeltune_cli.client import Client
from reeltune_cli.client.download import download_artifact
from reeltune_cli.client.watch import watch_job
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import JOB_SECONDS, TrainedJob, get_job, submit
from tests.e2e.training_material import parameters

ROWS = 4


async def finished(client: Client, job: job_pb2.TrainingJob) -> job_pb2.TrainingJob:
    async with asyncio.timeout(JOB_SECONDS):
        async for _ in watch_job(client, job.id):
            pass
    final = await get_job(client, job.id)
    assert final.state == job_pb2.JOB_STATE_COMPLETED, final.message
    return final


async def test_an_evaluation_holds_tuned_against_base(stack: RunningMesh, trained: TrainedJob, tmp_path: Path) -> None:
    client = trained.owner.client
    parameters = evaluation.EvaluationParameters(
        split="train", max_rows=ROWS, max_new_tokens=8, controls=[evaluation.EVALUATION_CONTROL_SHUFFLED_CLIPS]
    )
    request = pb.EvaluateTrainingJobRequest(job_id=trained.id, parameters=parameters, name="how good")
    job = await finished(client, (await client.post_training.EvaluateTrainingJob(request)).job)

    assert (job.source_job_id, job.progress.step, job.progress.total_steps) == (trained.id, ROWS, ROWS)
    shown = await stack.http.get(f"/v1/trainings/{job.id}/evaluation", headers=trained.owner.user.headers)
    found = (await client.post_training.GetEvaluation(pb.GetEvaluationRequest(job_id=job.id))).evaluation
    assert shown.json()["sourceJobId"] == found.source_job_id == trained.id
    assert (found.rows, found.total_rows, found.split) == (ROWS, ROWS, "train")
    base, tuned, shuffled = found.results
    assert base.condition == evaluation.EVALUATION_CONDITION_BASE
    assert tuned.loss < base.loss, "it has learned from these rows"
    assert shuffled.condition == evaluation.EVALUATION_CONDITION_SHUFFLED_CLIPS
    assert any("trained on" in note for note in found.notes)
    await download_artifact(client, job.id, tmp_path / "evaluation")
    answers = [json.loads(line) for line in (tmp_path / "evaluation" / "answers.jsonl").read_text().splitlines()]
    rows = {(row["question"], row["answer"]) for row in trained.material.rows}
    assert len(answers) == ROWS
    assert {(each["question"], each["reference"]) for each in answers} <= rows
    assert all(set(each["answers"]) == {"BASE", "TUNED", "SHUFFLED_CLIPS"} for each in answers)


async def test_a_merged_model_is_one_that_plain_transformers_loads(trained: TrainedJob, tmp_path: Path) -> None:
    client = trained.owner.client
    request = pb.MergeTrainingJobRequest(job_id=trained.id, parameters={"check_rows": 2})
    job = await finished(client, (await client.post_training.MergeTrainingJob(request)).job)

    made = (await client.post_training.GetMerge(pb.GetMergeRequest(job_id=job.id))).merge
    await download_artifact(client, job.id, tmp_path / "merged")

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    AutoProcessor.from_pretrained(tmp_path / "merged")
    base = AutoModelForImageTextToText.from_pretrained(trained.material.model, dtype=torch.bfloat16)
    weights, before = dict(model.named_parameters()), dict(base.named_parameters())
    assert weights.keys() == before.keys()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert any(not torch.equal(weight, before[name]) for name, weight in weights.items())
    assert (made.rows, made.source_job_id) == (2, trained.id)
    assert made.adapter_logit_difference < made.base_logit_difference
    assert made.layers > 0


@pytest.mark.parametrize("kind", [{"use_dora": True}, {"initialization": options.LORA_INITIALIZATION_LOFTQ}])
async def test_adapters_that_are_more_than_an_update_merge_into_what_they_said(
    trained: TrainedJob, kind: dict[str, Any], tmp_path: Path
) -> None:
    """DoRA scales whole rows of weights; LoftQ begins with an update that makes up for the quantisation."""
    client, wanted = trained.owner.client, parameters(2)
    wanted.lora.MergeFrom(parameters_pb2.LoraParameters(**kind))
    job = await finished(client, await submit(client, trained.model.id, trained.dataset.id, wanted))
    request = pb.MergeTrainingJobRequest(job_id=job.id, parameters={"check_rows": 2})
    merged = await finished(client, (await client.post_training.MergeTrainingJob(request)).job)
    made = (await client.post_training.GetMerge(pb.GetMergeRequest(job_id=merged.id))).merge
    assert made.layers > 0
    assert made.base_logit_difference > 0
    assert made.adapter_logit_difference < made.base_logit_difference / 2

    await download_artifact(client, merged.id, tmp_path / "merged")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(trained.material.model / "model.safetensors")
    assert weights.keys() == before.keys()
    assert any(not torch.equal(weight, before[name].to(weight.dtype)) for name, weight in weights.items())
