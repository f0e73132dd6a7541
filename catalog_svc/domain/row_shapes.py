"""A dataset's rows by the sizes of the clips that they show: what tokens can be counted from, by any rule. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from catalog_svc.domain.clip import DecodedClip
from catalog_svc.domain.sample import VideoPart

MOST_SHAPES = 100


@dataclass(frozen=True, slots=True)
class ShownClips:
    """What rows show: the clips of each, in order, and how many rows show just these."""

    videos: tuple[VideoPart, ...]
    count: int
    sample_id: str = ""
    """Of one of these rows."""
    unused: int = 0
    """Of these rows, those of splits that no training job trains or evaluates on."""

    @property
    def used(self) -> int:
        """The others."""
        return self.count - self.unused


@dataclass(frozen=True, slots=True)
class ShapeClip:
    """One clip as a row shows it."""

    width: int
    height: int
    frames: int
    """That there are to choose from."""
    fps: float
    max_frames: int | None = None
    """What the row says by itself; None: nothing."""
    sampling_fps: float | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class RowShape:
    """Rows that show clips of the same sizes."""

    rows: int
    clips: tuple[ShapeClip, ...]
    """Of the row that has most frames to choose from."""
    sample_id: str
    mean_frames: float


def available_frames(clip: DecodedClip, video: VideoPart) -> int:
    """Returns how many frames there are in the stretch that a row shows; at least 1."""
    start = video.start_seconds or 0.0
    end = clip.duration_seconds if video.end_seconds is None else min(video.end_seconds, clip.duration_seconds)
    # Frames of a clip with an even rate; of another one, this is near.
    first = math.ceil(start * clip.fps - 1e-6)
    return max(1, min(clip.frame_count, math.ceil(end * clip.fps - 1e-6)) - first)


def row_shapes(shown: Iterable[ShownClips], clips: Mapping[str, DecodedClip]) -> tuple[RowShape, ...]:
    """Returns all shapes of rows that training jobs use, those of most pixels first."""
    found: dict[tuple[object, ...], RowShape] = {}
    for row in shown:
        # A row whose clip is gone was read while the dataset was being deleted.
        pairs = [(clips[video.path], video) for video in row.videos if video.path in clips]
        if not row.used:
            continue
        shape = tuple(_shape_clip(clip, video) for clip, video in pairs)
        key = tuple((one.width, one.height, one.max_frames, one.sampling_fps, one.max_pixels) for one in shape)
        new = RowShape(row.used, shape, row.sample_id, float(_frames(shape)))
        found[key] = _joined(found[key], new) if key in found else new
    return tuple(sorted(found.values(), key=lambda each: (-_pixels(each.clips), each.sample_id)))


def _shape_clip(clip: DecodedClip, video: VideoPart) -> ShapeClip:
    frames = available_frames(clip, video)
    return ShapeClip(clip.width, clip.height, frames, clip.fps, video.max_frames, video.fps, video.max_pixels)


def _joined(one: RowShape, other: RowShape) -> RowShape:
    longer = other if _frames(other.clips) > _frames(one.clips) else one
    rows = one.rows + other.rows
    mean = (one.mean_frames * one.rows + other.mean_frames * other.rows) / rows
    return RowShape(rows, longer.clips, longer.sample_id, mean)


def _frames(clips: tuple[ShapeClip, ...]) -> int:
    return sum(clip.frames for clip in clips)


def _pixels(clips: tuple[ShapeClip, ...]) -> int:
    return sum(clip.width * clip.height for clip in clips)
