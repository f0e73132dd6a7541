"""Clips that look alike, found by their perceptual hashes. Pure.

Two hashes that differ in at most `MAX_DISTANCE` bits agree wholly in at least one of `MAX_DISTANCE + 1` stretches: it
is enough to compare those that share a stretch. M. Norouzi, A. Punjani and D. J. Fleet, "Fast search in Hamming space
with multi-index hashing", CVPR 2012.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from catalog_svc.domain.clip import Clip

MAX_DISTANCE = 3
"""Bits. Of clips that were encoded again or made smaller, hashes differ by 0 to 3; of others, by 32 in the mean."""
MAX_LENGTH_RATIO = 1.25
MAX_COMPARISONS = 10_000_000
"""Of one search: some seconds. Reached only where tens of thousands of clips look nearly alike."""
_STRETCHES = MAX_DISTANCE + 1
_STRETCH_BITS = 64 // _STRETCHES
_MASK = (1 << _STRETCH_BITS) - 1


class NearDuplicates:
    """Finds for a clip one that looks like it among those that it was made with."""

    def __init__(self, clips: Iterable[Clip], max_comparisons: int = MAX_COMPARISONS) -> None:
        self._by_hash: dict[int, list[Clip]] = defaultdict(list)
        for clip in clips:
            self._by_hash[clip.decoded.perceptual_hash].append(clip)
        # Of clips with one hash, one stands for all: a thousand black ones are no thousand comparisons.
        self._by_stretch: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(_STRETCHES)]
        for value in self._by_hash:
            for table, stretch in zip(self._by_stretch, _stretches(value), strict=True):
                table[stretch].append(value)
        self._left = max_comparisons

    @property
    def is_exhausted(self) -> bool:
        """Whether so much was compared that the search has stopped."""
        return self._left <= 0

    def find(self, clip: Clip) -> Clip | None:
        """Returns the clip that looks most like this one, of about the same length, if there is one."""
        best: tuple[int, str] | None = None
        found: Clip | None = None
        for other in self._candidates(clip.decoded.perceptual_hash):
            distance = (other.decoded.perceptual_hash ^ clip.decoded.perceptual_hash).bit_count()
            if _are_equally_long(clip, other) and (best is None or (distance, other.path) < best):
                best, found = (distance, other.path), other
        return found

    def _candidates(self, value: int) -> Iterator[Clip]:
        if value in self._by_hash:
            yield from self._by_hash[value]
            return
        for table, stretch in zip(self._by_stretch, _stretches(value), strict=True):
            same = table.get(stretch, ())
            self._left -= len(same)
            if self.is_exhausted:
                return
            for other in same:
                if (other ^ value).bit_count() <= MAX_DISTANCE:
                    yield from self._by_hash[other]


def _stretches(value: int) -> Iterator[int]:
    for number in range(_STRETCHES):
        yield value >> number * _STRETCH_BITS & _MASK


def _are_equally_long(one: Clip, other: Clip) -> bool:
    shorter, longer = sorted((one.decoded.duration_seconds, other.decoded.duration_seconds))
    return longer <= shorter * MAX_LENGTH_RATIO
