"""Which frames of a clip to take: a pure, deterministic function of its timestamps. No decoding here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]


class NoFramesError(ValueError):
    """The asked part of the clip holds no frame."""


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """What to take from one clip. Times are seconds from its first frame."""

    start: float = 0.0
    end: float | None = None
    """Exclusive; None: to the end of the clip."""
    fps: float = 0.0
    """Frames a second, within min_frames and max_frames; 0: max_frames spread evenly."""
    max_frames: int = 8
    min_frames: int = 2
    max_pixels: int = 0
    """Larger frames are scaled down, keeping their shape; 0: as they are."""
    by_segments: bool = False
    """One frame of each of as many equal segments, instead of a spread from the first to the last."""
    draw: str = ""
    """Where in its segment each lies: drawn from this text; in the middle when it is empty."""


def select_frames(timestamps: Sequence[float] | FloatArray, request: FrameRequest) -> list[int]:
    """Strictly increasing indices into `timestamps` (seconds, ascending), spread evenly in time.

    Always at least 1 and at most `max_frames`. Raises `NoFramesError` when no frame lies in [start, end).
    """
    times = np.asarray(timestamps, dtype=np.float64)
    candidates = frames_in_range(times, request)
    if candidates.size == 0:
        last = f"{times[-1]:.3f} s" if times.size else "nothing"
        raise NoFramesError(
            f"no frame between {request.start} s and {request.end} s; the clip's last frame is at {last}"
        )
    count = _frame_count(times[candidates], request)
    inside = times[candidates]
    chosen = _by_segments(inside, count, request.draw) if request.by_segments else _spread(inside, count)
    return [int(index) for index in candidates[chosen]]


def frames_in_range(times: FloatArray, request: FrameRequest) -> IndexArray:
    """Indices of the frames in [start, end)."""
    inside = times >= request.start
    if request.end is not None:
        inside &= times < request.end
    return np.flatnonzero(inside)


def scaled_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) scaled down to at most `max_pixels`, the shape kept and both sides even."""
    if max_pixels <= 0 or height * width <= max_pixels:
        return height, width
    factor = math.sqrt(max_pixels / (height * width))
    return max(2, int(height * factor) // 2 * 2), max(2, int(width * factor) // 2 * 2)


def _frame_count(times: FloatArray, request: FrameRequest) -> int:
    available = len(times)
    wanted = request.max_frames
    if request.fps > 0:
        # n frames at rate f cover (n - 1) / f seconds from the first to the last.
        covered = math.floor(float(times[-1] - times[0]) * request.fps + 1e-6) + 1
        wanted = min(max(covered, request.min_frames), request.max_frames)
    return max(1, min(wanted, available))


def _by_segments(times: FloatArray, count: int, draw: str) -> IndexArray:
    """`count` positions in `times`, one from each of as many segments of equal length."""
    # The last frame is shown for as long as the others are, on average.
    length = float(times[-1] - times[0]) * len(times) / max(1, len(times) - 1)
    bounds = np.searchsorted(times, times[0] + length * np.arange(1, count) / count - 1e-9)
    bounds = np.concatenate(([0], bounds, [len(times)]))
    if np.any(np.diff(bounds) <= 0):
        # Frames crowd together in part of the clip, so that a segment in time has none: segments by index.
        bounds = np.arange(count + 1) * len(times) // count
    sizes = np.diff(bounds)
    return np.asarray(bounds[:-1] + np.floor(sizes * _places(draw, count)), dtype=np.int64)


def _places(draw: str, count: int) -> FloatArray:
    """`count` numbers in [0, 1): the same for the same text on every machine; all 0.5 for an empty one."""
    if not draw:
        return np.full(count, 0.5)
    drawn = hashlib.shake_256(draw.encode()).digest(4 * count)
    return np.frombuffer(drawn, dtype=">u4").astype(np.float64) / 2**32


def _spread(times: FloatArray, count: int) -> IndexArray:
    """`count` distinct positions in `times`, ascending."""
    if count == 1:
        return np.array([len(times) // 2])
    targets = np.linspace(times[0], times[-1], count)
    right = np.clip(np.searchsorted(times, targets), 1, len(times) - 1)
    left_is_nearer = targets - times[right - 1] <= times[right] - targets
    nearest = np.where(left_is_nearer, right - 1, right)
    if np.all(np.diff(nearest) > 0):
        return nearest
    # Frames crowd together in part of the clip, so even spacing in time would take one twice: space by index.
    return np.round(np.linspace(0, len(times) - 1, count)).astype(np.int64)
