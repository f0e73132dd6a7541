"""Training parameters from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from reeltune.scheduler.v1.training_parameters_pb2 import TrainingParameters

from reeltune_cli.client import ClientError

_NEXT = "the names are those of TrainingParameters in proto/reeltune/scheduler/v1/training_parameters.proto"


def read_parameters(file: Path | None, settings: Iterable[str]) -> TrainingParameters:
    """Returns the parameters of a JSON file, changed by settings such as `lora.rank=8`.

    Raises:
        ClientError: the file or a setting cannot be read, or names no parameter.
    """
    document = _read(file) if file else {}
    for setting in settings:
        _apply(document, setting)
    try:
        return json_format.ParseDict(document, TrainingParameters())
    except json_format.ParseError as error:
        cause = " ".join(str(error).split())
        raise ClientError(f"the training parameters cannot be read: {cause}", "PARAMETERS_INVALID", _NEXT) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ClientError(f"{file} cannot be read: {error}", "PARAMETERS_INVALID", "name a JSON file") from error
    if not isinstance(document, dict):
        raise ClientError(f"{file} does not hold a JSON object", "PARAMETERS_INVALID", _NEXT)
    return document


def _apply(document: dict[str, Any], setting: str) -> None:
    name, separator, text = setting.partition("=")
    if not separator or not name:
        raise ClientError(f"{setting!r} is not NAME=VALUE", "PARAMETERS_INVALID", "for instance --set lora.rank=8")
    *groups, last = name.split(".")
    for group in groups:
        document = document.setdefault(group, {})
        if not isinstance(document, dict):
            raise ClientError(f"{setting!r}: {group} is no group of parameters", "PARAMETERS_INVALID", _NEXT)
    document[last] = _value(text, _field(groups, last))


def _field(groups: Iterable[str], name: str) -> FieldDescriptor | None:
    """The field of the contract; None for one that it has not, which is refused with all others."""
    message = TrainingParameters.DESCRIPTOR
    for group in groups:
        found = message.fields_by_name.get(group)
        if found is None or found.message_type is None:
            return None
        message = found.message_type
    return message.fields_by_name.get(name)


def _value(text: str, field: FieldDescriptor | None) -> Any:
    """Reads numbers, booleans and lists as JSON; names of enums as they are typed, several separated by commas."""
    try:
        return json.loads(text)
    except ValueError:
        if field is None or field.enum_type is None:
            return text
    names = [_enum_name(name.strip(), field.enum_type) for name in text.split(",")]
    return names if field.is_repeated else names[0]


def _enum_name(text: str, enum: EnumDescriptor) -> str:
    """The contract's name of `text`, which may lack the prefix that all names of the enum have, and the capitals."""
    unspecified, *choices = (value.name for value in enum.values)
    prefix = unspecified.removesuffix("UNSPECIFIED")
    name = prefix + text.upper().replace("-", "_").removeprefix(prefix)
    if name not in choices:
        offered = ", ".join(choice.removeprefix(prefix) for choice in choices)
        raise ClientError(f"there is no {enum.name} {text!r}", "PARAMETERS_INVALID", f"use one of {offered}")
    return name
