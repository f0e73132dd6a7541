"""What `train start` and `train estimate` both ask for: the options of a job, read into a request."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import worker_pb2

from reeltune_cli.amounts import read_size
from reeltune_cli.client import Client
from reeltune_cli.commands.naming import find_dataset, find_model
from reeltune_cli.commands.options import PriorityOption
from reeltune_cli.commands.parameters import read_parameters
from reeltune_cli.commands.presets import PresetOption

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Device(StrEnum):
    """Where a job may run."""

    ANY = "any"
    CPU = "cpu"
    CUDA = "cuda"
    JETSON = "jetson"


async def read_job_request(
    client: Client,
    model: Annotated[str, typer.Option("--model", "-m", help="The base model, by name or id.", show_default=False)],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="The dataset, by name or id.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="A name for the job.", show_default=False)] = "",
    preset: PresetOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter, such as lora.rank=8; may be repeated.", show_default=False
        ),
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option("--parameters", help="A JSON file of parameters.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default=False)] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps, instead of passes.", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a forward pass.", show_default=False)] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.", show_default=False)] = None,
    max_frames: Annotated[int | None, typer.Option(help="Most frames of a clip.", show_default=False)] = None,
    device: Annotated[Device, typer.Option(help="Where it may run.")] = Device.ANY,
    devices: Annotated[int, typer.Option(min=1, max=64, help="Devices that one trainer must have for it.")] = 1,
    device_memory: Annotated[
        str | None,
        typer.Option("--device-memory", help="Memory of each device, at least, such as 24GB.", show_default=False),
    ] = None,
    priority: PriorityOption = None,
) -> pb.CreateTrainingJobRequest:
    """Returns the request that the options make, with a request id of its own.

    Raises:
        ClientError: there is no such model or dataset, or a parameter cannot be read.
    """
    short = {
        "preset": preset,
        "optimization.epochs": epochs,
        "optimization.max_steps": max_steps,
        "optimization.learning_rate": learning_rate,
        "optimization.batch_size": batch_size,
        "lora.rank": rank,
        "sampling.max_frames": max_frames,
    }
    chosen = [f"{key}={value}" for key, value in short.items() if value is not None]
    return pb.CreateTrainingJobRequest(
        model_id=(await find_model(client, model)).id,
        dataset_id=(await find_dataset(client, dataset)).id,
        name=name,
        parameters=read_parameters(parameters, [*(settings or []), *chosen]),
        device_class=device_class(device),
        device_count=devices,
        device_memory_bytes=0 if device_memory is None else read_size(device_memory),
        priority=priority or 0,
        request_id=str(uuid.uuid4()),
    )


def taking(options_of: Callable[..., Any]) -> Callable[[_Command], _Command]:
    """Gives a command all options of a function, but for its first parameter, in the place of `**options`."""

    def decorate(run: _Command) -> _Command:
        first, *own = inspect.signature(run, eval_str=True).parameters.values()
        _, *shared = inspect.signature(options_of, eval_str=True).parameters.values()
        kept = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*shared, *kept)]
        run.__signature__ = inspect.Signature([first, *named])  # type: ignore[attr-defined]  # what typer reads
        return run

    return decorate


def device_class(device: Device) -> worker_pb2.DeviceClass.ValueType:
    """Returns the contract's device class."""
    name = "UNSPECIFIED" if device is Device.ANY else device.name
    return worker_pb2.DeviceClass.Value(f"DEVICE_CLASS_{name}")
