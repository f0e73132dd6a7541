from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.sampler import SamplePlan, epoch_order

plans = st.builds(SamplePlan, st.integers(1, 60), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**32 - 1))


@given(plans, st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(plan: SamplePlan, epoch: int) -> None:
    first = epoch * plan.steps_per_epoch
    seen = [
        index
        for step in range(first, first + plan.steps_per_epoch)
        for batch in plan.micro_batches(step)
        for index in batch
    ]
    assert sorted(seen) == list(range(plan.samples))


@given(plans, st.integers(0, 200))
def test_batches_are_a_pure_function_of_the_step(plan: SamplePlan, step: int) -> None:
    batches = plan.micro_batches(step)
    epoch_order.cache_clear()
    assert plan.micro_batches(step) == batches
    assert 1 <= len(batches) <= plan.accumulation
    assert all(1 <= len(batch) <= plan.batch_size for batch in batches)
    assert plan.epoch_of(step) == step // plan.steps_per_epoch


@given(st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_epochs_have_different_orders(seed: int, epoch: int) -> None:
    assert epoch_order(seed, epoch, 50) != epoch_order(seed, epoch + 1, 50)
    assert epoch_order(seed, epoch, 50) != epoch_order(seed + 1, epoch, 50)


def test_the_order_never_changes_between_versions() -> None:
    assert epoch_order(42, 0, 8) == (2, 7, 6, 5, 4, 1, 3, 0)


def test_total_steps() -> None:
    plan = SamplePlan(samples=10, batch_size=3, accumulation=2, seed=0)
    assert (plan.batches_per_epoch, plan.steps_per_epoch) == (4, 2)
    assert plan.total_steps(epochs=3, max_steps=0) == 6
    assert plan.total_steps(epochs=3, max_steps=5) == 5


@given(plans, st.integers(0, 200), st.integers(1, 9))
def test_the_shares_of_several_ranks_make_up_the_step(plan: SamplePlan, step: int, ranks: int) -> None:
    whole = [index for batch in plan.micro_batches(step) for index in batch]
    shares = [replace(plan, rank=rank, ranks=ranks).micro_batches(step) for rank in range(ranks)]
    assert [index for share in shares for batch in share for index in batch] == whole
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(1 <= len(batch) <= plan.batch_size for share in shares for batch in share)


def test_where_ranks_divide_the_micro_batches_evenly_these_stay_whole() -> None:
    plan = SamplePlan(samples=16, batch_size=2, accumulation=4, seed=1)
    shares = [replace(plan, rank=rank, ranks=2).micro_batches(0) for rank in range(2)]
    assert [*shares[0], *shares[1]] == plan.micro_batches(0)
