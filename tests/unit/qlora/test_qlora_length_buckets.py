from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.length_buckets import LengthBuckets
from trainer_svc.qlora.sampler import SamplePlan, epoch_order

lengths_of_samples = st.lists(st.integers(0, 500), min_size=1, max_size=200)


def padded_tokens(order: tuple[int, ...], lengths: list[int], size: int) -> int:
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    return sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)


@given(lengths_of_samples, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_an_epoch_holds_every_sample_once_and_pads_no_more_than_the_plain_order(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    order = LengthBuckets(lengths, size, seed).order(epoch)
    assert sorted(order) == list(range(len(lengths)))
    if len(lengths) <= size * 32 and len(lengths) % size == 0:  # one window of full batches: the best there is
        plain = epoch_order(seed, epoch, len(lengths))
        assert padded_tokens(order, lengths, size) <= padded_tokens(plain, lengths, size)


def test_it_is_a_pure_function_of_lengths_seed_and_epoch() -> None:
    lengths = [index * 37 % 101 for index in range(100)]
    asked_in_order = LengthBuckets(lengths, 4, 7)
    orders = [asked_in_order.order(epoch) for epoch in range(6)]
    asked_at_random = LengthBuckets(lengths, 4, 7)
    for epoch in (5, 0, 3, 3, 1, 2, 4, 0):
        assert asked_at_random.order(epoch) == orders[epoch]
    assert len(set(orders)) == 6
    assert LengthBuckets(lengths, 4, 8).order(0) != orders[0]


def test_batches_come_in_any_order_of_lengths() -> None:
    lengths = list(range(64))
    order = LengthBuckets(lengths, 4, 0).order(0)
    firsts = order[::4]
    assert sorted(firsts) != list(firsts)
    assert all(max(batch) - min(batch) == 3 for batch in (order[first : first + 4] for first in range(0, 64, 4)))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_plan_takes_its_batches_from_them(ranks: int) -> None:
    lengths = [5, 1, 4, 2, 3, 6, 7]
    plan = SamplePlan(7, 2, 2, 0, 0, ranks, LengthBuckets(lengths, 2, 0))
    steps = [
        [index for rank in range(ranks) for group in _of_rank(plan, rank).micro_batches(step) for index in group]
        for step in range(plan.steps_per_epoch)
    ]
    assert sorted(index for step in steps for index in step) == list(range(7))
    assert tuple(index for step in steps for index in step) == LengthBuckets(lengths, 2, 0).order(0)


def _of_rank(plan: SamplePlan, rank: int) -> SamplePlan:
    return SamplePlan(plan.samples, plan.batch_size, plan.accumulation, plan.seed, rank, plan.ranks, plan.buckets)
