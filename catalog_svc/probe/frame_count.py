"""Decoding every frame of a clip, with decord or with PyAV. Runs only inside a probe child."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from catalog_svc.domain.clip import ClipFault, FaultyClip
from catalog_svc.probe.complaints import Complaints
from catalog_svc.probe.pictures import Pictures, upright
from catalog_svc.probe.stream_facts import StreamFacts

_BEAT = Callable[[], None]


@dataclass(frozen=True, slots=True)
class FrameCount:
    """What decoding every frame found."""

    frames: int
    pictures: Pictures
    duration: Fraction
    """Seconds, by the frames' own times; 0 where these are missing."""
    damaged: int = 0


def has_decord() -> bool:
    """Tells whether decord is installed: there is no wheel of it for aarch64."""
    return importlib.util.find_spec("decord") is not None


def count_with_decord(path: Path, facts: StreamFacts, complaints: Complaints, beat: _BEAT) -> FrameCount | None:
    """Decodes a clip as training does; None if decord fails over it, or does not do all that it should.

    decord believes what the container says, makes up frames out of their neighbours, and hands rows of some widths (16
    and 48 pixels among them) on as if they had more than three colours. None of that is taken for a frame here.
    """
    # Takes a while, and only children that decode need it.
    import decord
    from decord._ffi.base import DECORDLimitReachedError

    decord.logging.set_level(decord.logging.ERROR)
    complaints.drain()
    pictures = Pictures(facts.packets)
    frames = 0
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        for frame in _frames(reader):
            if tuple(frame.shape) != (facts.height, facts.width, 3):
                return None
            pictures.offer(frames, frame.asnumpy)
            frames += 1
            beat()
        # Without this a reader keeps decoding ahead and holds the frames: dmlc/decord#208.
        reader.seek(0)
    except (decord.DECORDError, DECORDLimitReachedError, RuntimeError, OSError, IndexError, MemoryError):
        return None
    if frames != facts.packets or facts.is_marked_corrupt or not facts.duration or complaints.drain():
        return None
    return FrameCount(frames, pictures, facts.duration)


def count_with_pyav(
    opened: InputContainer, stream: VideoStream, facts: StreamFacts, complaints: Complaints, beat: _BEAT
) -> FrameCount | FaultyClip:
    """Decodes a clip at its beginning, and counts frames over which FFmpeg complains as damaged."""
    tally = _Tally(facts.rate)
    pictures = Pictures(max(1, facts.packets))
    complaints.drain()
    try:
        for packet in opened.demux(stream):
            for frame in packet.decode():
                pictures.offer(tally.frames, lambda frame=frame: upright(frame))  # type: ignore[misc]
                tally.add(frame, is_damaged=complaints.drain())
            beat()
    except av.error.FFmpegError as error:
        what = f"after {tally.frames} frames it does not decode any further: {error.strerror}"
        return FaultyClip(ClipFault.UNDECODABLE, what)
    if tally.frames == 0:
        return FaultyClip(ClipFault.UNDECODABLE, "not one frame of it decodes")
    declared = facts.declared_frames
    # Edit lists and open groups of pictures may hide a frame or two; more than that is a hole.
    if declared and tally.frames < declared - max(2, declared // 50):
        return FaultyClip(ClipFault.TRUNCATED, f"{tally.frames} of the {declared} frames that it declares decode")
    return FrameCount(tally.frames, pictures, tally.duration(), tally.damaged)


def _frames(reader: Any) -> Any:
    while True:
        try:
            yield reader.next()
        except StopIteration:
            return


class _Tally:
    """Counts frames and keeps the two ends of their time."""

    def __init__(self, rate: Fraction) -> None:
        self.frames = 0
        self.damaged = 0
        self._rate = rate
        self._first: Fraction | None = None
        self._last = Fraction(0)
        self._last_length = Fraction(0)

    def add(self, frame: VideoFrame, *, is_damaged: bool) -> None:
        self.frames += 1
        self.damaged += is_damaged or bool(frame.is_corrupt)
        if frame.pts is None or frame.time_base is None:
            return
        time = frame.pts * frame.time_base
        if self._first is None or time < self._first:
            self._first = time
        if time >= self._last or self.frames == 1:
            self._last = time
            self._last_length = (frame.duration or 0) * frame.time_base

    def duration(self) -> Fraction:
        if self._first is None or (self.frames > 1 and self._last <= self._first):
            return self.frames / self._rate  # no time stamps: raw streams have none
        return self._last - self._first + (self._last_length or 1 / self._rate)
