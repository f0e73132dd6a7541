"""Every option of the contract, found in the contract itself: kept by the scheduler, and told again as it was given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from scheduler_svc.domain.parameters import parameters_from_json
from scheduler_svc.rpc.parameters_convert import given_from_proto, parameters_to_proto

REQUIRED: dict[str, dict[str, Any]] = {
    "rank_allocation": {"warmup_steps": 2},
    "layer_patterns": {"pattern": "*"},
    "misbehaviors": {"kind": "MISBEHAVIOR_KIND_HANG"},
    "early_stopping": {"patience": 2},
    "sample_predictions": {"count": 2},
}
"""What an option must have beside it."""


def leaves(message: Descriptor, *above: str) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """The fields that hold a value, with their path."""
    for field in message.fields:
        path = (*above, field.name)
        if field.message_type is None:
            yield path, field
        else:
            yield from leaves(field.message_type, *path)


def value_of(field: FieldDescriptor, *, is_other: bool) -> Any:
    """One of two values: an option whose default is the one has not the other."""
    if field.enum_type is not None:
        value: Any = field.enum_type.values[-2 if is_other and len(field.enum_type.values) > 2 else -1].name
    elif field.type == field.TYPE_BOOL:
        value = is_other
    elif field.type == field.TYPE_STRING:
        value = "a" if is_other else "b"
    else:
        value = 7 if is_other else 9
    return [value] if field.is_repeated else value


def message_with(path: tuple[str, ...], value: Any) -> pb.TrainingParameters:
    document, message = value, [pb.TrainingParameters.DESCRIPTOR]
    for name in path[:-1]:
        message.append(message[-1].fields_by_name[name].message_type)
    for owner, name in reversed(list(zip(message, path, strict=True))):
        field = owner.fields_by_name[name]
        if field.message_type is not None:
            document = {**REQUIRED.get(name, {}), **document}
        document = {name: [document] if field.is_repeated and field.message_type is not None else document}
    return ParseDict(document, pb.TrainingParameters())


def told(parameters: pb.TrainingParameters, path: tuple[str, ...]) -> Any:
    value: Any = MessageToDict(parameters, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for name in path:
        value = value[0] if isinstance(value, list) else value
        value = value[name]
    return value


OPTIONS = dict(leaves(pb.TrainingParameters.DESCRIPTOR))


def test_the_options_of_the_contract_are_found() -> None:
    assert ("optimization", "learning_rate") in OPTIONS
    assert ("lora", "rank_allocation", "vision_share", "min") in OPTIONS
    assert len(OPTIONS) > 50


@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("path", OPTIONS, ids=".".join)
def test_an_option_is_kept_and_told_again(path: tuple[str, ...], is_other: bool) -> None:
    value = value_of(OPTIONS[path], is_other=is_other)
    asked = message_with(path, value)
    stored = parameters_from_json(given_from_proto(asked)).to_json()

    assert told(parameters_to_proto(parameters_from_json(stored)), path) == told(asked, path)
