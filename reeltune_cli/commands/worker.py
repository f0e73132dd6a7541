"""`reeltune worker list|drain|resume`."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from reeltune.scheduler.v1 import recipe_pb2, worker_pb2
from reeltune.scheduler.v1 import worker_service_pb2 as pb

from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, enum_word, local_time, size, to_document

WorkerArgument = Annotated[
    str, typer.Argument(metavar="WORKER", help="The trainer's id, as `worker list` shows it.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="The trainers.", no_args_is_help=True)
    add_command(commands, "list", list_all)
    add_command(commands, "drain", drain)
    add_command(commands, "resume", resume)
    app.add_typer(commands, name="worker")


async def list_all(cli: Invocation, limit: LimitOption = 1000) -> None:
    """List the trainers and what they can do."""
    async with cli.client() as client:
        found = await all_pages(client.workers.ListWorkers, pb.ListWorkersRequest(), "workers", limit)
        titles = ("NAME", "ID", "STATE", "DEVICE", "MEMORY", "4-BIT", "RECIPES", "HEARD OF")
        cli.answer(
            {"workers": [to_document(worker) for worker in found]}, columns(titles, [_row(worker) for worker in found])
        )


async def drain(cli: Invocation, worker: WorkerArgument) -> None:
    """Take a trainer out of service; it gives its job back at the next step. Admins only."""
    async with cli.client() as client:
        request = pb.DrainWorkerRequest(worker_id=worker, request_id=str(uuid.uuid4()))
        drained = (await client.workers.DrainWorker(request)).worker
        cli.answer({"worker": to_document(drained)}, f"{drained.name or drained.id} is {_state(drained)}")


async def resume(cli: Invocation, worker: WorkerArgument) -> None:
    """Put a trainer back into service. Admins only."""
    async with cli.client() as client:
        request = pb.ResumeWorkerRequest(worker_id=worker, request_id=str(uuid.uuid4()))
        resumed = (await client.workers.ResumeWorker(request)).worker
        cli.answer({"worker": to_document(resumed)}, f"{resumed.name or resumed.id} is {_state(resumed)}")


def _row(worker: worker_pb2.Worker) -> tuple[object, ...]:
    device = worker.device
    kind = enum_word(worker_pb2.DeviceClass, device.device_class, "DEVICE_CLASS_")
    recipes = ", ".join(enum_word(recipe_pb2.Recipe, recipe, "RECIPE_") for recipe in worker.recipes)
    return (
        worker.name,
        worker.id,
        _state(worker),
        f"{max(device.device_count, 1)} x {kind}",
        size(device.memory_bytes),
        "yes" if device.can_train_4bit else "no",
        recipes,
        local_time(worker.heartbeat_time),
    )


def _state(worker: worker_pb2.Worker) -> str:
    return enum_word(worker_pb2.WorkerState, worker.state, "WORKER_STATE_")
