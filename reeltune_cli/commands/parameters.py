"""Training parameters from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import json_format
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
    document[last] = _value(text)


def _value(text: str) -> Any:
    """Reads numbers, booleans and lists as JSON, anything else as text: an enum's name needs no quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text
