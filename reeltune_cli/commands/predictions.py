"""`reeltune train predictions`: what an adapter answered to held-out rows while it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from reeltune.scheduler.v1 import job_event_pb2, prediction_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from rich.table import Table

from reeltune_cli.commands.options import JobArgument, all_pages
from reeltune_cli.invocation import Invocation, add_command, printable
from reeltune_cli.tables import columns, to_document

_MOST_EVENTS = 10_000_000
_PAGE_SIZE = 50
"""Events with answers are large."""


def register(commands: typer.Typer) -> None:
    """Adds the command to those about training jobs."""
    add_command(commands, "predictions", predictions)


async def predictions(
    cli: Invocation,
    job: JobArgument,
    every: Annotated[bool, typer.Option("--all", help="Those of every evaluation, not of the last alone.")] = False,
) -> None:
    """Print what the adapter answered to the held-out rows that it does best and worst on."""
    async with cli.client() as client:
        request = history.ListEventsRequest(job_id=job, page_size=_PAGE_SIZE)
        events = await all_pages(client.training.ListEvents, request, "events", _MOST_EVENTS)
        told = [event for event in events if event.HasField("predictions")]
        shown = told if every else told[-1:]
        cli.answer({"predictions": [to_document(event) for event in shown]}, _table(shown))


def _table(events: Iterable[job_event_pb2.JobEvent]) -> Table:
    rows = [
        (event.predictions.step, rank, each.sample_id, f"{each.loss:.4f}", _shown(each), printable(each.expected))
        for event in events
        for rank, found in (("best", event.predictions.best), ("worst", event.predictions.worst))
        for each in found
    ]
    return columns(("STEP", "AMONG", "SAMPLE", "LOSS", "ANSWERED", "EXPECTED"), rows)


def _shown(prediction: prediction_pb2.Prediction) -> str:
    return printable(prediction.generated) + (" …" if prediction.is_cut else "")
