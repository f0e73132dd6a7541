"""The order of samples: a pure function of (seed, epoch). A run's place in its data is its step, nothing else."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer_svc.qlora.length_buckets import LengthBuckets


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Which samples make up which step of the optimizer. Indices are into the training samples.

    Steps never reach over the end of an epoch: its last step may be smaller. Of several ranks, each has its share of
    every step.
    """

    samples: int
    batch_size: int
    accumulation: int
    seed: int
    rank: int = 0
    ranks: int = 1
    buckets: LengthBuckets | None = None
    """Where batches hold samples of like length."""

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.batches_per_epoch / self.accumulation)

    def total_steps(self, epochs: int, max_steps: int) -> int:
        """`max_steps` when set, else what `epochs` makes."""
        return max_steps or epochs * self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) in which step number `step` (from 0) lies."""
        return step // self.steps_per_epoch

    def micro_batches(self, step: int) -> list[list[int]]:
        """The micro-steps of step number `step` (from 0), each a list of sample indices; of this rank alone."""
        epoch = self.epoch_of(step)
        order = self.buckets.order(epoch) if self.buckets else epoch_order(self.seed, epoch, self.samples)
        first = step % self.steps_per_epoch * self.accumulation
        last = min(first + self.accumulation, self.batches_per_epoch)
        groups = [list(order[batch * self.batch_size : (batch + 1) * self.batch_size]) for batch in range(first, last)]
        return groups if self.ranks == 1 else share_of(groups, self.rank, self.ranks, self.batch_size)


def share_of(groups: list[list[int]], rank: int, ranks: int, batch_size: int) -> list[list[int]]:
    """What one of `ranks` has of a step: samples that follow each other, as many as any other rank or one less, in
    groups of up to `batch_size`. The shares make up the step; where they divide it evenly, whole groups stay whole."""
    samples = [index for group in groups for index in group]
    mine = samples[len(samples) * rank // ranks : len(samples) * (rank + 1) // ranks]
    return [mine[first : first + batch_size] for first in range(0, len(mine), batch_size)]


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """A permutation of range(count), the same on every machine and in every version of every library."""

    def key(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=16).digest()

    return tuple(sorted(range(count), key=key))
