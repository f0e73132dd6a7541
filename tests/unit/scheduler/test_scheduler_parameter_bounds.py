"""What the contract lets through and a submission accepts, no trainer refuses: at both ends of every number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from reeltune.scheduler.v1 import training_parameters_pb2 as pb

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.parameters import resolve_parameters
from scheduler_svc.rpc.parameters_convert import given_from_proto, parameters_to_proto
from trainer_svc.clients.parameters import specification_from_proto
from trainer_svc.qlora.spec import TrainingSpec

_NOT_TRAINED = ("rehearsal", "evaluation", "merge")
_COMPANIONS: dict[str, dict[str, Any]] = {
    "early_stopping": {"evaluate_every_steps": 1, "early_stopping": {"patience": 1}},
    "sample_predictions": {"sample_predictions": {"count": 1}},
    "temporal_kernel_size": {"lora": {"temporal_groups": ["MODULE_GROUP_LANGUAGE"]}},
    "rank_allocation": {
        "lora": {
            "rank_allocation": {"warmup_steps": 1},
            "target_groups": ["MODULE_GROUP_LANGUAGE", "MODULE_GROUP_PROJECTOR", "MODULE_GROUP_VISION"],
        }
    },
    "layer_patterns": {"lora": {"layer_patterns": [{"pattern": "*"}]}},
}
"""What a number does nothing without."""


def numbers(message: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number of the contract with each end of its range."""
    for field in message.fields:
        if field.name in _NOT_TRAINED:
            continue
        if field.message_type is not None:
            yield from numbers(field.message_type, (*path, field.name))
        else:
            yield from (((*path, field.name), end) for end in ends(field))


def ends(field: FieldDescriptor) -> Iterator[float]:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if rules.WhichOneof("type") not in ("double", "int32", "int64", "uint32"):
        return
    bounds = getattr(rules, rules.WhichOneof("type"))
    for name in ("gte", "lte"):
        if bounds.HasField(name):
            yield getattr(bounds, name)
    if bounds.HasField("gt"):
        yield math.nextafter(bounds.gt, math.inf)
    if bounds.HasField("lt"):
        yield math.nextafter(bounds.lt, -math.inf)


CASES = list(numbers(pb.TrainingParameters.DESCRIPTOR))


@pytest.mark.parametrize(
    ("path", "value"), CASES, ids=lambda value: ".".join(value) if isinstance(value, tuple) else None
)
def test_an_end_of_a_range_is_accepted_everywhere_or_refused_at_submit(path: tuple[str, ...], value: float) -> None:
    given: dict[str, Any] = {}
    for name in path:
        given = merged(given, _COMPANIONS.get(name, {}))
    message = ParseDict(merged(given, nested(path, value)), pb.TrainingParameters())
    protovalidate.validate(message)
    try:
        parameters = resolve_parameters(given_from_proto(message))
    except InvalidField:
        return  # told in time, and by name
    specification = specification_from_proto(parameters_to_proto(parameters))
    TrainingSpec.from_dict(specification).validate()


def test_the_ranges_are_found() -> None:
    assert {("lora", "alpha"), ("sampling", "fps"), ("optimization", "learning_rate")} <= {path for path, _ in CASES}
    assert len(CASES) > 50


def nested(path: tuple[str, ...], value: float) -> Any:
    if not path:
        return value
    inner = nested(path[1:], value)
    return {path[0]: [inner] if path[0] == "layer_patterns" else inner}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            result[name] = merged(old, value)
        elif isinstance(old, list) and isinstance(value, list) and value and isinstance(value[0], dict):
            result[name] = [merged(old[0], value[0])]
        else:
            result[name] = value
    return result
