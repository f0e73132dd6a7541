"""Gauges of a database: shown while they are fresh, never a service's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from meshkit.telemetry.census import Census, Reading
from meshkit.testing import assert_eventually


async def test_a_census_shows_what_it_counted_and_nothing_that_is_old() -> None:
    registry = CollectorRegistry()
    counts = iter([1.0, 2.0])

    async def count() -> Sequence[Reading]:
        # The database goes away after the second round.
        try:
            return [Reading("clips", "Clips", ("kind",), {("red",): next(counts)})]
        except StopIteration:
            raise OSError("away") from None

    census = Census("x", count, registry, every_seconds=0.02)
    assert registry.get_sample_value("clips", {"kind": "red"}) is None
    await census.round()
    assert registry.get_sample_value("clips", {"kind": "red"}) == 1.0
    assert (registry.get_sample_value("x_census_timestamp_seconds") or 0) > 1e9
    running = asyncio.create_task(census.run())

    def is_forgotten() -> bool:
        failures = registry.get_sample_value("x_census_failures_total") or 0
        return failures >= 2 and registry.get_sample_value("clips", {"kind": "red"}) is None

    await assert_eventually(is_forgotten)
    assert not running.done()
    running.cancel()
