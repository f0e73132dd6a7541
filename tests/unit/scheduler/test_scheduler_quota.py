"""Limits and what counts against them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain.errors import QuotaExceeded
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.quota import (
    WINDOW,
    DeviceTime,
    Limit,
    Quota,
    QuotaChange,
    check_submission,
    device_hours,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
USER = UserId("usr_1")


def test_without_limits_everything_goes() -> None:
    check_submission(Quota(USER), 10**9, 10**18)
    with pytest.raises(QuotaExceeded):
        check_submission(Quota(USER, queued_jobs=1), 10**9, 10**18)


@pytest.mark.parametrize(
    ("quota", "queued", "stored", "limit"),
    [
        (Quota(USER, queued_jobs=3), 3, 0, Limit.QUEUED_JOBS),
        (Quota(USER, queued_jobs=0), 0, 0, Limit.QUEUED_JOBS),
        (Quota(USER, storage_bytes=10), 0, 10, Limit.STORAGE),
    ],
)
def test_a_submission_over_a_limit_is_refused_with_all_that_there_is_to_know(
    quota: Quota, queued: int, stored: int, limit: Limit
) -> None:
    with pytest.raises(QuotaExceeded) as caught:
        check_submission(quota, queued, stored)
    assert (caught.value.limit_name, caught.value.limit) == (limit, getattr(quota, limit.value))
    assert caught.value.used == max(queued, stored)


def test_the_last_one_below_a_limit_is_taken() -> None:
    quota = Quota(USER, queued_jobs=3, storage_bytes=10)
    check_submission(quota, 2, 9)
    with pytest.raises(QuotaExceeded):
        check_submission(quota, 3, 9)
    with pytest.raises(QuotaExceeded):
        check_submission(quota, 2, 10)


def test_device_hours_count_devices_and_only_the_last_day() -> None:
    spans = [
        DeviceTime(NOW - 2 * HOUR, NOW - HOUR, 4),
        DeviceTime(NOW - HOUR / 2, None, 2),
        DeviceTime(NOW - 25 * HOUR, NOW - 23 * HOUR),
        DeviceTime(NOW - 50 * HOUR, NOW - 49 * HOUR),
    ]
    assert device_hours(spans, 100, NOW).used == pytest.approx(4 + 1 + 1)


def test_device_hours_come_back_when_old_ones_leave_the_window() -> None:
    spans = [DeviceTime(NOW - 20 * HOUR, NOW - 15 * HOUR)]
    assert device_hours(spans, 6, NOW).free_time is None
    free = device_hours(spans, 5, NOW).free_time
    assert free is not None
    assert timedelta(0) < free - (NOW + 4 * HOUR) < timedelta(seconds=1)
    free = device_hours(spans, 3, NOW).free_time
    assert free is not None
    assert timedelta(0) < free - (NOW + 6 * HOUR) < timedelta(seconds=1)


def test_a_limit_of_nothing_never_comes_back() -> None:
    assert device_hours([DeviceTime(NOW - HOUR, None)], 0, NOW).free_time is None


hours = st.floats(-30, 0, allow_nan=False)
spans = st.builds(
    lambda start, length, count: DeviceTime(
        NOW + start * HOUR, None if length is None else min(NOW + (start + length) * HOUR, NOW), count
    ),
    hours,
    st.none() | st.floats(0, 30, allow_nan=False),
    st.integers(1, 8),
)


@given(st.lists(spans, max_size=8), st.floats(0.1, 50, allow_nan=False))
def test_at_the_free_time_there_is_room_and_a_moment_before_there_is_none(
    found: list[DeviceTime], limit: float
) -> None:
    now_used = device_hours(found, limit, NOW)
    assert (now_used.free_time is None) == (now_used.used < limit)
    if now_used.free_time is None:
        return
    assert NOW <= now_used.free_time <= NOW + WINDOW + HOUR
    ended = [DeviceTime(span.start_time, span.end_time or NOW, span.device_count) for span in found]
    assert device_hours(ended, limit, now_used.free_time).used < limit
    before = max(now_used.free_time - timedelta(milliseconds=1), NOW)
    assert device_hours(ended, limit, before).used >= limit - 1e-6


def test_a_change_touches_what_it_names() -> None:
    quota = Quota(USER, running_jobs=1, queued_jobs=2, storage_bytes=3)
    change = QuotaChange(frozenset({Limit.QUEUED_JOBS, Limit.STORAGE}), Quota(USER, running_jobs=9, queued_jobs=7))
    assert change.apply(quota) == Quota(USER, running_jobs=1, queued_jobs=7, storage_bytes=None)
