from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_svc.domain.errors import LoginThrottled
from auth_svc.domain.throttle import AccountFailures, Bucket, ThrottlePolicy, judge_attempt
from auth_svc.usecases.address_limiter import AddressLimiter

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = ThrottlePolicy(
    free_failures=5,
    first_delay=timedelta(seconds=1),
    max_delay=timedelta(seconds=60),
    forget_after=timedelta(hours=1),
)


def test_the_delay_doubles_up_to_its_bound() -> None:
    seconds = [POLICY.delay_after(failures).total_seconds() for failures in range(15)]
    assert seconds == [0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert POLICY.delay_after(10**9) == timedelta(seconds=60)


def test_an_account_waits_from_its_last_failure() -> None:
    admission = judge_attempt(AccountFailures(8, NOW - timedelta(seconds=1)), NOW, POLICY)
    assert not admission.is_admitted
    assert admission.retry_after == timedelta(seconds=3)
    assert judge_attempt(AccountFailures(8, NOW - timedelta(seconds=4)), NOW, POLICY).is_admitted


def test_turns_are_taken_in_advance_only_once_failures_cost_something() -> None:
    assert not judge_attempt(None, NOW, POLICY).counts_in_advance
    assert not judge_attempt(AccountFailures(4, NOW), NOW, POLICY).counts_in_advance
    assert judge_attempt(AccountFailures(5, NOW), NOW, POLICY).counts_in_advance


def test_old_failures_are_forgotten() -> None:
    admission = judge_attempt(AccountFailures(500, NOW - timedelta(hours=1)), NOW, POLICY)
    assert admission.is_admitted
    assert not admission.counts_in_advance


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=60))
def test_a_bucket_never_gives_more_than_capacity_plus_what_time_brought(steps: list[tuple[float, bool]]) -> None:
    bucket = Bucket(capacity=3, per_second=0.5, tokens=3, updated_at=0)
    now, taken = 0.0, 0
    for pause, gives_back in steps:
        now += pause
        wait = bucket.take(now)
        assert wait <= 2
        if wait == 0:
            taken += 1
            if gives_back:
                bucket.give_back(now)
                taken -= 1
        assert taken <= 3 + now * 0.5 + 1e-6


def test_an_address_that_fails_on_waits_and_others_do_not() -> None:
    clock = [100.0]
    limiter = AddressLimiter(2, 1, clock=lambda: clock[0])
    for _ in range(2):
        limiter.take("192.0.2.1")
    with pytest.raises(LoginThrottled) as caught:
        limiter.take("192.0.2.1")
    assert caught.value.retry_after == timedelta(seconds=1)
    limiter.take("192.0.2.2")
    clock[0] += 1
    limiter.take("192.0.2.1")


def test_attempts_that_succeed_cost_nothing() -> None:
    limiter = AddressLimiter(1, 0.001, clock=lambda: 0.0)
    for _ in range(20):
        limiter.take("192.0.2.1")
        limiter.give_back("192.0.2.1")
    limiter.take("192.0.2.1")
    with pytest.raises(LoginThrottled):
        limiter.take("192.0.2.1")


def test_an_ipv6_network_counts_as_one_address() -> None:
    limiter = AddressLimiter(1, 0.001, clock=lambda: 0.0)
    limiter.take("2001:db8::1")
    with pytest.raises(LoginThrottled):
        limiter.take("2001:db8::2")
    limiter.take("2001:db8:0:1::1")
