"""`reeltune train pause|resume|retry|update|checkpoints`."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.scheduler.v1 import checkpoint_pb2, training_job_pb2
from reeltune.scheduler.v1 import training_verbs_pb2 as pb

from reeltune_cli.client import ClientError
from reeltune_cli.commands.job_view import job_facts, job_state
from reeltune_cli.commands.options import JobArgument, LimitOption, PriorityOption, all_pages
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, local_time, size, to_document


def register(commands: typer.Typer) -> None:
    """Adds the commands to those about training jobs."""
    add_command(commands, "pause", pause)
    add_command(commands, "resume", resume)
    add_command(commands, "retry", retry)
    add_command(commands, "update", update)
    add_command(commands, "checkpoints", checkpoints)


async def pause(cli: Invocation, job: JobArgument) -> None:
    """Keep a queued job from the trainers until it is resumed."""
    async with cli.client() as client:
        request = pb.PauseTrainingJobRequest(job_id=job, request_id=str(uuid.uuid4()))
        paused = (await client.training.PauseTrainingJob(request)).job
        cli.answer({"job": to_document(paused)}, f"{paused.id} is {job_state(paused)}")


async def resume(cli: Invocation, job: JobArgument) -> None:
    """Give a paused job back to the queue."""
    async with cli.client() as client:
        request = pb.ResumeTrainingJobRequest(job_id=job, request_id=str(uuid.uuid4()))
        resumed = (await client.training.ResumeTrainingJob(request)).job
        cli.answer({"job": to_document(resumed)}, f"{resumed.id} is {job_state(resumed)}")


async def retry(
    cli: Invocation,
    job: JobArgument,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Delete its checkpoints and begin at step 0.")
    ] = False,
) -> None:
    """Try a stopped or failed job again, from its newest whole checkpoint."""
    async with cli.client() as client:
        request = pb.RetryTrainingJobRequest(job_id=job, from_scratch=from_scratch, request_id=str(uuid.uuid4()))
        retried = (await client.training.RetryTrainingJob(request)).job
        text = f"{retried.id} is {job_state(retried)}; follow it with: reeltune train watch {retried.id}"
        cli.answer({"job": to_document(retried)}, text)


async def update(
    cli: Invocation,
    job: JobArgument,
    name: Annotated[str | None, typer.Option("--name", help="Its new name.", show_default=False)] = None,
    priority: PriorityOption = None,
    etag: Annotated[
        str, typer.Option("--etag", help="Refuse if it is not the current one of `train show`.", show_default=False)
    ] = "",
) -> None:
    """Change a job's name or priority."""
    given = {key: value for key, value in (("name", name), ("priority", priority)) if value is not None}
    if not given:
        raise ClientError("there is nothing to change", "NOTHING_TO_CHANGE", "give --name or --priority")
    async with cli.client() as client:
        request = pb.UpdateTrainingJobRequest(
            job=training_job_pb2.TrainingJob(id=job, etag=etag, **given),  # type: ignore[arg-type]  # by name
            update_mask=FieldMask(paths=list(given)),
            request_id=str(uuid.uuid4()),
        )
        updated = (await client.training.UpdateTrainingJob(request)).job
        cli.answer({"job": to_document(updated)}, job_facts(updated))


async def checkpoints(cli: Invocation, job: JobArgument, limit: LimitOption = 100) -> None:
    """List a job's checkpoints; the next attempt goes on from the first."""
    async with cli.client() as client:
        request = pb.ListCheckpointsRequest(job_id=job)
        found = await all_pages(client.training.ListCheckpoints, request, "checkpoints", limit)
        rows = [_checkpoint_row(each) for each in found]
        table = columns(("STEP", "ATTEMPT", "SIZE", "EVAL LOSS", "SAVED", "RESUME"), rows)
        cli.answer({"checkpoints": [to_document(each) for each in found]}, table)


def _checkpoint_row(each: checkpoint_pb2.CheckpointInfo) -> tuple[object, ...]:
    loss = f"{each.eval_loss:.4f}" if each.HasField("eval_loss") else ""
    saved = local_time(each.create_time)
    return each.step, each.attempt, size(each.size_bytes), loss, saved, "next" if each.is_newest else ""
