from __future__ import annotations

import pytest

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.job import Needs, Recipe
from scheduler_svc.domain.parameters import resolve_parameters
from scheduler_svc.domain.placement import check_devices


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
