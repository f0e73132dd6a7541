"""Buckets of metrics against a reference that looks at all the points."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain import metric_buckets
from scheduler_svc.domain.events import MetricPoint
from scheduler_svc.domain.metric_buckets import MOST_ROWS, SIZES, Bucket, Summary, condense, extend, size_for

values = st.floats() | st.integers(-3, 3).map(float)
points = st.lists(
    st.builds(
        MetricPoint,
        st.integers(1, 40),  # steps go back and repeat, as after a resume
        st.dictionaries(st.sampled_from(["loss", "eval_loss", "grad_norm"]), values, max_size=3),
    ),
    max_size=60,
)


def reference(stretch: list[MetricPoint]) -> dict[str, tuple[object, ...]]:
    """What the buckets of a stretch must say, computed from all its points at once."""
    by_name: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for point in stretch:
        for name, value in point.values.items():
            by_name[name].append((point.step, value))
    found = {}
    for name, pairs in by_name.items():
        numbers = [value for _, value in pairs if not math.isnan(value)]
        found[name] = (
            pairs[0][0],
            pairs[-1][0],
            min(numbers, default=None),
            max(numbers, default=None),
            repr(pairs[-1][1]),
            len(pairs),
            len(pairs) - len(numbers),
        )
    return found


def shown(summary: Summary) -> tuple[object, ...]:
    """A summary in the reference's form; NaN is compared by its name."""
    return (
        summary.first_step,
        summary.last_step,
        summary.least,
        summary.greatest,
        repr(summary.last),
        summary.count,
        summary.nan_count,
    )


@given(history=points, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_buckets_kept_batch_by_batch_are_those_of_the_whole_history(
    history: list[MetricPoint], cuts: list[int]
) -> None:
    sizes = (2, 8, 16)
    original, metric_buckets.SIZES = metric_buckets.SIZES, sizes  # small ones, so that short histories fill them
    try:
        kept: dict[tuple[int, int], Bucket] = {}
        begin = 0
        while begin < len(history):
            for cut in cuts:
                newest = [max((b for b in kept.values() if b.size == s), key=lambda b: b.number) for s in sizes if kept]
                for bucket in extend(newest, history[begin : begin + cut]):
                    kept[bucket.size, bucket.number] = bucket
                begin += cut
    finally:
        metric_buckets.SIZES = original
    for size in sizes:
        stretches = [history[at : at + size] for at in range(0, len(history), size)]
        buckets = [kept[size, number] for number in range(len(stretches))]
        assert sum(bucket.size == size for bucket in kept.values()) == len(stretches)
        assert [bucket.points for bucket in buckets] == [len(stretch) for stretch in stretches]
        assert [{n: shown(s) for n, s in b.summaries.items()} for b in buckets] == [reference(s) for s in stretches]
        assert not stretches or buckets[-1].end == len(history)


@given(history=points, max_buckets=st.integers(1, 70), chosen=st.none() | st.frozensets(st.sampled_from(["loss", "x"])))
def test_a_series_holds_every_point_once_in_no_more_buckets_than_asked_for(
    history: list[MetricPoint], max_buckets: int, chosen: frozenset[str] | None
) -> None:
    rows = [{name: Summary.of(point.step, value) for name, value in point.values.items()} for point in history]
    series = condense(rows, max_buckets, chosen)
    group = max(1, math.ceil(len(history) / max_buckets))
    expected: dict[str, list[object]] = defaultdict(list)
    for at in range(0, len(history), group):
        for name, summary in reference(history[at : at + group]).items():
            if chosen is None or name in chosen:
                expected[name].append(summary)
    assert {name: [shown(bucket) for bucket in buckets] for name, buckets in series.items()} == expected
    assert list(series) == sorted(series)
    assert all(len(buckets) <= max_buckets for buckets in series.values())
    if len(history) <= max_buckets:
        assert all(bucket.count == 1 for buckets in series.values() for bucket in buckets)


def test_reading_is_bounded_however_long_a_job_is() -> None:
    assert [size_for(count) for count in (0, 1, MOST_ROWS, MOST_ROWS + 1, 16 * MOST_ROWS, 16 * MOST_ROWS + 1)] == [
        *(1, 1, 1),
        *(16, 16, 256),
    ]
    assert size_for(1_000_000) == 256
    for count in (5_000, 70_000, 1_000_000, 16_000_000):
        assert 256 <= math.ceil(count / size_for(count)) <= MOST_ROWS
    assert size_for(10**9) == SIZES[-1]
