"""Gauges of what a database holds: counted every so often, never for a scrape and never for a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

EVERY_SECONDS = 15.0
_GOOD_FOR_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """One gauge, as it was counted."""

    name: str
    what: str
    """What it counts, for whoever reads the endpoint."""
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    """By the values of the labels."""


class Census(Collector):
    """Counts again and again, and shows what was counted last for as long as that is no lie: four rounds.

    Each replica counts the same rows. Whoever puts their gauges together takes the highest, not the sum.
    """

    def __init__(
        self,
        prefix: str,
        count: Callable[[], Awaitable[Sequence[Reading]]],
        registry: CollectorRegistry,
        *,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        """`count` must be cheap, and bounded by a timeout of its own."""
        self._count = count
        self._every_seconds = every_seconds
        self._readings: Sequence[Reading] = ()
        self._counted_at = float("-inf")
        self._counted_time = 0.0
        self._timestamp = f"{prefix}_census_timestamp_seconds"
        self._failures = Counter(
            f"{prefix}_census_failures_total",
            "Rounds in which the database could not be counted",
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was counted last; nothing once that is too old."""
        if time.monotonic() - self._counted_at > _GOOD_FOR_ROUNDS * self._every_seconds:
            return
        yield GaugeMetricFamily(self._timestamp, "When the database was last counted", value=self._counted_time)
        for reading in self._readings:
            family = GaugeMetricFamily(reading.name, reading.what, labels=reading.labels)
            for labels, value in reading.values.items():
                family.add_metric(labels, value)
            yield family

    async def run(self) -> NoReturn:
        """Counts for ever."""
        is_failing = False
        while True:
            try:
                await self.round()
                is_failing = False
            except Exception as error:  # whatever the database's trouble is: nobody is served worse for want of a count
                self._failures.inc()
                if not is_failing:
                    structlog.get_logger().warning("census.failed", cause=repr(error))
                is_failing = True
            await asyncio.sleep(self._every_seconds)

    async def round(self) -> None:
        """Counts once. Raises what counting raises."""
        self._readings = await self._count()
        self._counted_at, self._counted_time = time.monotonic(), time.time()
