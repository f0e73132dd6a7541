"""What a dataset holds, in numbers. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog_svc.domain.clip import DecodedClip
from catalog_svc.domain.row_shapes import MOST_SHAPES, RowShape, ShownClips, row_shapes
from catalog_svc.domain.visual_tokens import VisualSampling, visual_tokens

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS = 20
_RESOLUTIONS = 50
MOST_TAGS = 50
MOST_SPLITS = 50

Named = tuple[tuple[str, int], ...]
"""Names and how often each is there, most first."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How numbers are spread."""

    count: int = 0
    minimum: float = 0.0
    maximum: float = 0.0
    mean: float = 0.0
    quantiles: tuple[tuple[float, float], ...] = ()
    """Shares, and the smallest number that so large a share does not exceed."""
    bins: tuple[tuple[float, float, int], ...] = ()
    """Beginning, end and count of stretches of equal width."""


@dataclass(frozen=True, slots=True)
class DatasetNumbers:
    """What statistics are made from."""

    splits: Mapping[str, int]
    """Rows by split, the MOST_SPLITS with most rows."""
    answer_characters: Mapping[float, int]
    """Rows by the length of their answers."""
    text_characters: Mapping[float, int]
    """Rows by the length of all their words."""
    clips: Mapping[str, DecodedClip]
    """By path."""
    shown: tuple[ShownClips, ...]
    used_answers: Mapping[float, int] = field(default_factory=dict)
    """As `answer_characters`, of the rows that training jobs train or evaluate on."""
    used_text: Mapping[float, int] = field(default_factory=dict)
    tags: Named = ()
    """Rows by tag, the first MOST_TAGS."""
    tag_count: int = 0
    """Of all tags."""


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """The numbers of a dataset."""

    splits: Named
    clip_seconds: Distribution
    clip_fps: Distribution
    clip_frames: Distribution
    resolutions: Named
    codecs: Named
    answer_characters: Distribution
    visual_tokens: Distribution
    sampling: VisualSampling
    text_characters: Distribution = field(default_factory=Distribution)
    row_shapes: tuple[RowShape, ...] = ()
    """The first MOST_SHAPES."""
    has_more_shapes: bool = False
    used_answers: Distribution = field(default_factory=Distribution)
    used_text: Distribution = field(default_factory=Distribution)
    tags: Named = ()
    """The first MOST_TAGS."""
    tag_count: int = 0


def describe(numbers: DatasetNumbers, sampling: VisualSampling) -> DatasetStatistics:
    """Returns the statistics of a dataset, with the tokens that a sampling gives."""
    clips = numbers.clips.values()
    shapes = row_shapes(numbers.shown, numbers.clips)
    return DatasetStatistics(
        splits=_most_first(numbers.splits),
        clip_seconds=distribution(Counter(clip.duration_seconds for clip in clips)),
        clip_fps=distribution(Counter(clip.fps for clip in clips)),
        clip_frames=distribution(Counter(float(clip.frame_count) for clip in clips)),
        resolutions=_most_first(Counter(f"{clip.width}x{clip.height}" for clip in clips))[:_RESOLUTIONS],
        codecs=_most_first(Counter(clip.codec for clip in clips)),
        answer_characters=distribution(numbers.answer_characters),
        visual_tokens=distribution(_tokens(numbers, sampling)),
        sampling=sampling,
        text_characters=distribution(numbers.text_characters),
        row_shapes=shapes[:MOST_SHAPES],
        has_more_shapes=len(shapes) > MOST_SHAPES,
        used_answers=distribution(numbers.used_answers),
        used_text=distribution(numbers.used_text),
        tags=numbers.tags,
        tag_count=numbers.tag_count,
    )


def distribution(counts: Mapping[float, int]) -> Distribution:
    """Returns how numbers are spread.

    Args:
        counts: How often each number is there.
    """
    values = sorted((float(value), count) for value, count in counts.items() if count > 0)
    if not values:
        return Distribution()
    total = sum(count for _, count in values)
    low, high = values[0][0], values[-1][0]
    return Distribution(
        count=total,
        minimum=low,
        maximum=high,
        mean=math.fsum(value * count for value, count in values) / total,
        quantiles=tuple((share, _quantile(values, share * total)) for share in QUANTILES),
        bins=_histogram(values, low, high),
    )


def _quantile(values: list[tuple[float, int]], rank: float) -> float:
    seen = 0
    for value, count in values:
        seen += count
        if seen >= rank - 1e-9:
            return value
    return values[-1][0]


def _histogram(values: list[tuple[float, int]], low: float, high: float) -> tuple[tuple[float, float, int], ...]:
    if low == high:
        return ((low, high, sum(count for _, count in values)),)
    width = (high - low) / _BINS
    counts = [0] * _BINS
    for value, count in values:
        counts[min(_BINS - 1, int((value - low) / width))] += count
    edges = [low + width * number for number in range(_BINS)] + [high]
    return tuple((edges[number], edges[number + 1], count) for number, count in enumerate(counts))


def _tokens(numbers: DatasetNumbers, sampling: VisualSampling) -> Mapping[float, int]:
    counts: Counter[float] = Counter()
    for row in numbers.shown:
        # A row whose clip is gone was read while the dataset was being deleted.
        clips = [(numbers.clips[video.path], video) for video in row.videos if video.path in numbers.clips]
        counts[sum(visual_tokens(clip, video, sampling) for clip, video in clips)] += row.count
    return counts


def _most_first(counts: Mapping[str, int]) -> Named:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
