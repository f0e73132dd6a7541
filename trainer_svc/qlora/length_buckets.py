"""Batches of samples of like length: less padding, the same samples in every epoch, each once.

Standard library only. A pure function of lengths, seed and epoch, as the plain order is one of seed and epoch: a run
that goes on from a checkpoint finds its place by its step alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from trainer_svc.qlora.sampler import epoch_order

_BATCHES_PER_WINDOW = 32
"""Samples are sorted within so many batches: enough to pad little, few enough to leave an epoch well mixed."""


class LengthBuckets:
    """The order of an epoch whose batches hold samples of like length, and come in any order of lengths."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """`lengths`: of every sample, in any unit."""
        self._lengths = tuple(lengths)
        self._size = batch_size
        self._seed = seed
        self._known: dict[int, tuple[int, ...]] = {}

    def order(self, epoch: int) -> tuple[int, ...]:
        """Indices of all samples; each `batch_size` that follow each other are a batch, as in the plain order."""
        order = self._known.get(epoch)
        if order is None:
            order = self._order(epoch)
            # Around an epoch's end two are in use: that of the step, and that of the batches made ready ahead.
            self._known = {known: self._known[known] for known in list(self._known)[-1:]} | {epoch: order}
        return order

    def _order(self, epoch: int) -> tuple[int, ...]:
        mixed = epoch_order(self._seed, epoch, len(self._lengths))
        window = self._size * _BATCHES_PER_WINDOW
        batches = []
        for first in range(0, len(mixed), window):
            alike = sorted(mixed[first : first + window], key=lambda index: self._lengths[index])
            batches += [alike[start : start + self._size] for start in range(0, len(alike), self._size)]
        # A batch that is not full ends the epoch, as ever: it is the one of the longest samples of the last window.
        full = len(self._lengths) // self._size
        places = sorted(range(full), key=lambda place: self._key(epoch, place))
        return tuple(index for place in (*places, *range(full, len(batches))) for index in batches[place])

    def _key(self, epoch: int, place: int) -> bytes:
        return hashlib.blake2b(f"{self._seed}/{epoch}/batch/{place}".encode(), digest_size=16).digest()
