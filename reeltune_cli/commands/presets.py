"""`reeltune train presets`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from reeltune.scheduler.v1 import preset_service_pb2 as pb
from reeltune.scheduler.v1 import training_options_pb2

from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, to_document

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Values to start from: fast, balanced, best or jetson-8gb; see `train presets`. What is set besides wins.",
        show_default=False,
    ),
]


def register(commands: typer.Typer) -> None:
    """Adds the command to those about training jobs."""
    add_command(commands, "presets", presets)


async def presets(cli: Invocation) -> None:
    """List the presets: for whom each is, and what it sets. With `-o json`, every value in force."""
    async with cli.client() as client:
        found = (await client.presets.ListPresets(pb.ListPresetsRequest())).presets
        rows = [
            (_name(each.preset), each.description, "\n".join(f"{name}={_value(each, name)}" for name in each.sets))
            for each in found
        ]
        cli.answer({"presets": [to_document(each) for each in found]}, columns(("PRESET", "FOR WHOM", "SETS"), rows))


def _name(number: training_options_pb2.Preset.ValueType) -> str:
    """As `--preset` takes it."""
    return training_options_pb2.Preset.Name(number).removeprefix("PRESET_").lower().replace("_", "-")


def _value(preset: pb.PresetDescription, name: str) -> str:
    value: Any = MessageToDict(preset.parameters, preserving_proto_field_name=True)
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    # 64-bit numbers are texts in JSON.
    return value if isinstance(value, str) else json.dumps(value)
