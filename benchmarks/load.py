"""Closed-loop load: so many callers, each with one call in flight, and what they saw."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Load:
    """What one stretch of load saw."""

    rate: float
    """Calls a second."""
    latencies: Sequence[float]
    """Seconds, ascending."""

    def quantile(self, share: float) -> float:
        """Seconds below which this share of the calls stayed."""
        return quantile(self.latencies, share)


async def put_load(calls: Sequence[Call], seconds: float) -> Load:
    """Calls each of `calls` again and again, all of them side by side, for so long."""
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def caller(call: Call) -> None:
        while (start := time.perf_counter()) < end:
            await call()
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*map(caller, calls))
    return Load(len(latencies) / (time.perf_counter() - began), sorted(latencies))


def load_figures(name: str, calls: str, rounds: Sequence[Load]) -> dict[str, float]:
    """Medians over the rounds, by names that begin with `name`; `calls` says what was called, in the plural."""
    return {
        f"{name}_{calls}_per_second": statistics.median(each.rate for each in rounds),
        f"{name}_p50_milliseconds": statistics.median(each.quantile(0.5) for each in rounds) * 1e3,
        f"{name}_p99_milliseconds": statistics.median(each.quantile(0.99) for each in rounds) * 1e3,
    }


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]
