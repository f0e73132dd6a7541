from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from reeltune.scheduler.v1 import base_sharing_pb2 as pb
from reeltune.scheduler.v1 import training_parameters_pb2

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.job import Needs, Recipe
from scheduler_svc.domain.parameters import resolve_parameters
from scheduler_svc.domain.placement import check_devices
from scheduler_svc.rpc.parameters_convert import given_from_proto, parameters_to_proto
from trainer_svc.clients.parameters import specification_from_proto
from trainer_svc.qlora.base_sharding import wants_sharding
from trainer_svc.qlora.ranks import Ranks
from trainer_svc.qlora.spec import SpecError, TrainingSpec


@pytest.mark.parametrize(("batch", "accumulation", "devices"), [(1, 1, 1), (4, 1, 4), (2, 4, 8)])
def test_each_device_needs_a_sample_of_every_step(batch: int, accumulation: int, devices: int) -> None:
    parameters = resolve_parameters(
        {"optimization": {"batch_size": batch, "gradient_accumulation_steps": accumulation}}
    )
    check_devices(Needs(device_count=devices), parameters)
    with pytest.raises(InvalidField, match=r"batch_size x gradient_accumulation_steps.*fewer devices") as caught:
        check_devices(Needs(device_count=devices + 1), parameters)
    assert caught.value.field == "device_count"
    check_devices(Needs(device_count=devices + 1, recipe=Recipe.REHEARSAL), parameters)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"lora": {"rank_allocation": {"warmup_steps": 5}}}, "lora.rank_allocation"),
        ({"lora": {"initialization": "EVA"}}, "lora.initialization"),
        ({"lora": {"use_dora": True}}, "lora.use_dora"),
        ({"sample_predictions": {"count": 1}}, "sample_predictions"),
    ],
)
def test_what_wants_whole_layers_and_a_shared_base_exclude_each_other(
    other: dict[str, Any], name: str, tmp_path: Path
) -> None:
    given = {"base_sharing": "ON", **other}
    with pytest.raises(InvalidField, match=rf"{name}, which .*: leave out one of them") as caught:
        check_devices(Needs(device_count=2), resolve_parameters(given))
    assert caught.value.field == "parameters.base_sharing"
    check_devices(Needs(device_count=2), resolve_parameters({**given, "base_sharing": "AUTO"}))
    # Whatever the trainer would refuse at the start of the job.
    asked = parameters_to_proto(resolve_parameters({**given, "optimization": {"max_steps": 9}}))
    spec = TrainingSpec.from_dict(specification_from_proto(asked))
    ranks, told = cast(Ranks, SimpleNamespace(count=2, decide=lambda fits: fits)), list[str]()
    with pytest.raises(SpecError, match=name) as refused:
        wants_sharding(spec, Path(), ranks, told.append)
    assert refused.value.field == "base_sharing"
    # Undecided, it gives way to them, and says so where the base is large.
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    undecided = spec.with_overrides(["runtime.sharding=auto"])
    assert not wants_sharding(undecided, tmp_path, ranks, told.append, memory_bytes=1000)
    assert not told
    assert not wants_sharding(undecided, tmp_path, ranks, told.append, memory_bytes=100)
    assert len(told) == 1
    assert name in told[0]
    plain = TrainingSpec().with_overrides(["runtime.devices=2"])
    assert wants_sharding(plain, tmp_path, ranks, told.append, memory_bytes=100)


def test_the_contract_names_what_a_shared_base_excludes() -> None:
    contract = Path(__file__).parents[3] / "proto/reeltune/scheduler/v1/base_sharing.proto"
    for name in ("lora.rank_allocation", "lora.initialization", "lora.use_dora", "sample_predictions"):
        assert f"`{name}`" in contract.read_text()


@pytest.mark.parametrize(
    ("asked", "trained"),
    [(pb.BASE_SHARING_UNSPECIFIED, "auto"), (pb.BASE_SHARING_OFF, "off"), (pb.BASE_SHARING_ON, "on")],
)
def test_what_is_asked_of_the_base_reaches_the_trainer_as_it_was_asked(
    asked: pb.BaseSharing.ValueType, trained: str
) -> None:
    request = training_parameters_pb2.TrainingParameters(base_sharing=asked)
    in_force = parameters_to_proto(resolve_parameters(given_from_proto(request)))
    assert in_force.base_sharing == asked
    runtime = specification_from_proto(in_force)["runtime"]
    assert TrainingSpec.from_dict({"runtime": runtime}).runtime.sharding == trained
