"""`reeltune train start|estimate|watch|stop|list|show|logs|metrics|download|delete`; the rest is in `train_verbs`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from reeltune.scheduler.v1 import job_event_pb2, metric_series_pb2, training_job_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_service_pb2 as pb
from rich.table import Table

from reeltune_cli.bars import transfer_bars
from reeltune_cli.client import Client
from reeltune_cli.client.download import download_artifact, stream_artifact
from reeltune_cli.commands import post_training, predictions, presets, train_estimate, train_verbs
from reeltune_cli.commands.job_request import read_job_request, taking
from reeltune_cli.commands.job_view import dataset_words, job_facts, job_state, queue_place, show_until_final
from reeltune_cli.commands.options import FilterOption, JobArgument, LimitOption, YesOption, all_pages
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, count, enum_word, local_time, size, to_document


class Level(StrEnum):
    """How much a log line weighs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="Training jobs.", no_args_is_help=True)
    add_command(commands, "start", start)
    add_command(commands, "estimate", train_estimate.estimate)
    add_command(commands, "watch", watch)
    add_command(commands, "stop", stop)
    add_command(commands, "list", list_all)
    add_command(commands, "show", show)
    add_command(commands, "logs", logs)
    add_command(commands, "metrics", metrics)
    add_command(commands, "download", download)
    add_command(commands, "delete", delete)
    train_verbs.register(commands)
    presets.register(commands)
    predictions.register(commands)
    post_training.register(commands)
    app.add_typer(commands, name="train")


@taking(read_job_request)
async def start(
    cli: Invocation,
    /,
    follow: Annotated[bool, typer.Option("--watch", "-w", help="Watch it until it is final.")] = False,
    **options: Any,
) -> None:
    """Start a training job. What is not set gets the preset's value or its default; `train show` tells all in force."""
    async with cli.client() as client:
        request = await read_job_request(client, **options)
        job = (await client.training.CreateTrainingJob(request)).job
        if follow:
            cli.note(f"job {job.id} is queued; Ctrl-C leaves it running")
            job = await show_until_final(cli, client, job.id)
        cli.answer({"job": to_document(job)}, job_facts(job))


async def watch(cli: Invocation, job: JobArgument) -> None:
    """Watch a job until it is final. Ctrl-C ends the watching, not the job."""
    async with cli.client() as client:
        final = await show_until_final(cli, client, job)
        cli.answer({"job": to_document(final)}, job_facts(final))


async def stop(cli: Invocation, job: JobArgument) -> None:
    """Stop a job; a running one first saves the adapter so far."""
    async with cli.client() as client:
        request = pb.StopTrainingJobRequest(job_id=job, request_id=str(uuid.uuid4()))
        stopped = (await client.training.StopTrainingJob(request)).job
        cli.answer({"job": to_document(stopped)}, f"{stopped.id} is {job_state(stopped)}")


async def list_all(cli: Invocation, filter: FilterOption = "", limit: LimitOption = 50) -> None:  # noqa: A002
    """List your jobs."""
    async with cli.client() as client:
        request = pb.ListTrainingJobsRequest(filter=filter)
        found = await all_pages(client.training.ListTrainingJobs, request, "jobs", limit)
        rows = [
            (row.id, row.name, job_state(row), queue_place(row), f"{row.progress.fraction:.0%}",
             f"{row.progress.loss:.4f}" if row.progress.HasField("loss") else "", local_time(row.create_time))
            for row in found
        ]  # fmt: skip
        table = columns(("ID", "NAME", "STATE", "QUEUE", "DONE", "LOSS", "CREATED"), rows)
        cli.answer({"jobs": [to_document(row) for row in found]}, table)


async def show(cli: Invocation, job: JobArgument) -> None:
    """Show a job with every parameter in force."""
    async with cli.client() as client:
        found = await _get(client, job)
        cli.answer({"job": to_document(found)}, job_facts(found, with_parameters=True))


async def logs(
    cli: Invocation,
    job: JobArgument,
    level: Annotated[Level | None, typer.Option(help="Only lines of at least this weight.", show_default=False)] = None,
    limit: LimitOption = 10_000,
) -> None:
    """Print a job's log, oldest line first."""
    request = history.ListLogsRequest(job_id=job)
    if level:
        request.min_level = job_event_pb2.LogLevel.Value(f"LOG_LEVEL_{level.name}")
    async with cli.client() as client:
        lines = await all_pages(client.training.ListLogs, request, "lines", limit)
        rows = [
            (local_time(line.create_time), enum_word(job_event_pb2.LogLevel, line.log.level, "LOG_LEVEL_"),
             line.log.text)
            for line in lines
        ]  # fmt: skip
        cli.answer({"lines": [to_document(line) for line in lines]}, columns(("TIME", "LEVEL", "LINE"), rows))


async def metrics(
    cli: Invocation,
    job: JobArgument,
    limit: LimitOption = 10_000,
    buckets: Annotated[
        int, typer.Option("--buckets", min=0, help="Sum each metric up in at most so many lines.", show_default=False)
    ] = 0,
) -> None:
    """Print what was measured, step by step."""
    async with cli.client() as client:
        if buckets:
            request = history.ListMetricsRequest(job_id=job, max_points=buckets)
            series = (await client.training.ListMetrics(request)).series
            cli.answer({"series": [to_document(each) for each in series]}, _series_table(series))
            return
        points = await all_pages(client.training.ListMetrics, history.ListMetricsRequest(job_id=job), "points", limit)
        document = {"points": [to_document(point) for point in points]}
        cli.answer(document, _metric_table([point.metrics for point in points]))


async def download(
    cli: Invocation,
    job: JobArgument,
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder; by default the job's id.", show_default=False)
    ] = None,
    over_grpc: Annotated[
        bool, typer.Option("--over-grpc", help="Through the gRPC port alone, without the object store.")
    ] = False,
) -> None:
    """Download what a job made, every byte verified: an adapter for plain `peft`, an evaluation, a merged model."""
    folder = to or Path(job)
    fetch = stream_artifact if over_grpc else download_artifact
    async with cli.client() as client:
        with transfer_bars(cli.notes, "downloaded") as bars:
            artifact = await fetch(client, job, folder, bars)
        for file in artifact.files:
            file.url = ""  # a secret that has done its work
        trained_on = dataset_words(artifact.dataset_id, artifact.dataset_version)
        text = f"{count(len(artifact.files), 'file')}, {size(artifact.size_bytes)} in {folder}, trained on {trained_on}"
        cli.answer({"artifact": to_document(artifact), "folder": str(folder.resolve())}, text)


async def delete(cli: Invocation, job: JobArgument, yes: YesOption = False) -> None:
    """Delete a job with its events, checkpoints and adapter."""
    async with cli.client() as client:
        found = await _get(client, job)
        adapter = " and its adapter" if found.has_artifact else ""
        cli.confirm(f"Delete job {found.name or found.id}{adapter}?", yes=yes)
        request = pb.DeleteTrainingJobRequest(job_id=job, request_id=str(uuid.uuid4()))
        await client.training.DeleteTrainingJob(request)
        cli.answer({"deleted": job}, f"deleted {job}")


async def _get(client: Client, job_id: str) -> training_job_pb2.TrainingJob:
    return (await client.training.GetTrainingJob(pb.GetTrainingJobRequest(job_id=job_id))).job


def _metric_table(points: Iterable[job_event_pb2.MetricPoint]) -> Table:
    rows = list(points)
    names = sorted({name for point in rows for name in point.values}, key=lambda name: (name != "loss", name))
    cells = [
        (point.step, *(f"{point.values[name]:.6g}" if name in point.values else "" for name in names)) for point in rows
    ]
    return columns(("STEP", *(name.upper() for name in names)), cells)


def _series_table(series: Iterable[metric_series_pb2.MetricSeries]) -> Table:
    rows = [
        (
            each.name,
            bucket.first_step,
            bucket.last_step,
            f"{bucket.min:.6g}" if bucket.HasField("min") else "",
            f"{bucket.max:.6g}" if bucket.HasField("max") else "",
            f"{bucket.last:.6g}",
            bucket.count,
        )
        for each in series
        for bucket in each.buckets
    ]
    return columns(("METRIC", "FROM STEP", "TO STEP", "MIN", "MAX", "LAST", "POINTS"), rows)
