"""Metrics of any length in few numbers: each bucket sums up points that were recorded one after the other.

Buckets of three sizes are kept as points are recorded, so that reading never needs more than a few thousand rows. A
bucket is a stretch of the job's metric points by their place in its history, not by step: an attempt that goes on from
a checkpoint repeats steps, and both measurements happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler_svc.domain.events import MetricPoint

SIZES = (16, 256, 4096)
"""Points of a full bucket."""
MOST_ROWS = 4096
"""What a summary is made from at most, up to 16 million points."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Values of one metric, one after the other."""

    first_step: int
    last_step: int
    least: float | None
    """None when there is nothing but NaN, which is neither small nor large."""
    greatest: float | None
    last: float
    count: int = 1
    """NaN included."""
    nan_count: int = 0

    @classmethod
    def of(cls, step: int, value: float) -> Summary:
        """Sums up one value."""
        if math.isnan(value):
            return cls(step, step, None, None, value, nan_count=1)
        return cls(step, step, value, value, value)

    def then(self, later: Summary) -> Summary:
        """Sums up these values and the ones after them."""
        return Summary(
            self.first_step,
            later.last_step,
            _pick(min, self.least, later.least),
            _pick(max, self.greatest, later.greatest),
            later.last,
            self.count + later.count,
            self.nan_count + later.nan_count,
        )


Summaries = Mapping[str, Summary]
"""By the metric's name."""


@dataclass(slots=True)
class Bucket:
    """A stretch of a job's metric points, the `number`th of its size."""

    size: int
    number: int
    points: int = 0
    """How many points it has so far, whatever they measured."""
    summaries: dict[str, Summary] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """How many points the job has up to here."""
        return self.number * self.size + self.points

    def add(self, point: MetricPoint) -> None:
        """Takes in the next point."""
        self.points += 1
        for name, value in point.values.items():
            new = Summary.of(point.step, value)
            old = self.summaries.get(name)
            self.summaries[name] = new if old is None else old.then(new)


def extend(newest: Iterable[Bucket], points: Sequence[MetricPoint]) -> list[Bucket]:
    """Returns the buckets that new points are in, given the job's newest bucket of each size, if it has any."""
    by_size = {bucket.size: bucket for bucket in newest}
    changed: list[Bucket] = []
    for size in SIZES:
        bucket = by_size.get(size) or Bucket(size, 0)
        for place, point in enumerate(points):
            if bucket.points == size:
                bucket = Bucket(size, bucket.number + 1)
            bucket.add(point)
            if place == 0 or bucket.points == 1:
                changed.append(bucket)
    return changed


def size_for(points: int) -> int:
    """Returns the least size whose buckets of so many points are no more than MOST_ROWS; 1 stands for the points."""
    return next((size for size in (1, *SIZES) if points <= size * MOST_ROWS), SIZES[-1])


def condense(rows: Sequence[Summaries], max_buckets: int, names: frozenset[str] | None) -> dict[str, list[Summary]]:
    """Returns each metric in at most `max_buckets` buckets, made by putting as many neighbours together throughout.

    `names` are the metrics that are wanted; None for all. A metric that is measured rarely has fewer buckets.
    """
    group = max(1, math.ceil(len(rows) / max_buckets))
    series: dict[str, list[Summary]] = {}
    group_of: dict[str, int] = {}
    for place, row in enumerate(rows):
        for name, summary in row.items():
            if names is not None and name not in names:
                continue
            buckets = series.setdefault(name, [])
            if buckets and group_of[name] == place // group:
                buckets[-1] = buckets[-1].then(summary)
            else:
                buckets.append(summary)
                group_of[name] = place // group
    return dict(sorted(series.items()))


def _pick(choose: Callable[[float, float], float], earlier: float | None, later: float | None) -> float | None:
    if earlier is None or later is None:
        return later if earlier is None else earlier
    return choose(earlier, later)
