"""Wake-ups: no more than could wake anybody, and always one."""

from __future__ import annotations

import pytest

from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import DeviceClass, WakeUp
from scheduler_svc.domain.waking import choose_to_send

WAITING = [
    WakeUp(number, JobId(f"job_{number}"), 1, device_class)
    for number, device_class in enumerate([DeviceClass.ANY, DeviceClass.CUDA, *[DeviceClass.ANY] * 4])
]


@pytest.mark.parametrize(
    ("idle", "expected"), [(0, [0, 1]), (1, [0, 1]), (2, [0, 1, 2]), (4, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4, 5])]
)
def test_of_each_class_as_many_as_there_are_idle_trainers_and_always_one(idle: int, expected: list[int]) -> None:
    sent, spared = choose_to_send(WAITING, idle)
    assert [wake_up.id for wake_up in sent] == expected
    assert sorted(wake_up.id for wake_up in (*sent, *spared)) == list(range(6))


def test_nothing_waits() -> None:
    assert choose_to_send([], 3) == ([], [])
