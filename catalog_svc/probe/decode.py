"""Decodes a clip in full. Runs only inside a probe child: FFmpeg reads bytes from strangers here."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.logging
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from catalog_svc.domain.clip import ClipFault, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.container import HEAD_BYTES, Container, missing_bytes, sniff

MAX_STREAMS = 32
# Hostile files aim at rarely used decoders; these are the codecs that people's clips really have.
CODECS = frozenset(
    [
        "h264",
        "hevc",
        "vp8",
        "vp9",
        "av1",
        "libdav1d",
        "libaom-av1",
        "mpeg4",
        "mpeg1video",
        "mpeg2video",
        "mjpeg",
        "prores",
        "dnxhd",
        "theora",
        "wmv3",
        "vc1",
        "msmpeg4v3",
        "h263",
        "flv1",
        "ffv1",
    ]
)


def decode_clip(path: Path, max_pixels: int) -> ProbeOutcome:
    """Returns what decoding every frame of the file found.

    Args:
        path: The file; its name says nothing.
        max_pixels: Most pixels (width times height) of a frame.
    """
    size = path.stat().st_size
    if size == 0:
        return FaultyClip(ClipFault.EMPTY, "the file is empty")
    with path.open("rb") as file:
        container = sniff(file.read(HEAD_BYTES))
        if container is None:
            return FaultyClip(ClipFault.NOT_VIDEO, "its bytes are those of no video container that is known here")
        lacking = missing_bytes(container, lambda offset, length: os.pread(file.fileno(), length, offset), size)
    if lacking:
        return FaultyClip(ClipFault.TRUNCATED, f"the file ends {lacking} bytes too early: it was cut")
    return _decode(path, container, max_pixels)


def _decode(path: Path, container: Container, max_pixels: int) -> ProbeOutcome:
    av.logging.set_level(None)
    # The demuxer is forced and may open nothing but this file.
    options = {"protocol_whitelist": "file", "format_whitelist": _format_names(container)}
    try:
        with av.open(str(path), format=container.value, options=options, metadata_errors="replace") as opened:
            return _decode_stream(opened, max_pixels)
    except av.error.FFmpegError as error:
        return FaultyClip(ClipFault.UNDECODABLE, f"it cannot be opened as {container.value}: {error.strerror}")
    except MemoryError:
        return FaultyClip(ClipFault.TOO_LARGE, "decoding it takes more memory than a clip is given")


def _decode_stream(opened: InputContainer, max_pixels: int) -> ProbeOutcome:
    if len(opened.streams) > MAX_STREAMS:
        return FaultyClip(
            ClipFault.UNDECODABLE, f"it has {len(opened.streams)} streams, at most {MAX_STREAMS} are read"
        )
    stream = next((stream for stream in opened.streams.video if not _is_picture(stream)), None)
    if stream is None:
        return FaultyClip(ClipFault.NOT_VIDEO, "it holds no video stream")
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        name = context.name if context is not None else "unknown"
        return FaultyClip(ClipFault.UNDECODABLE, f"its codec {name} is not supported")
    if context.width * context.height > max_pixels:
        return _too_many_pixels(context.width, context.height, max_pixels)
    # What the stream itself says comes to light only while decoding, and may differ from what the container says.
    context.options = {"max_pixels": str(max_pixels)}
    context.thread_count = 1
    return _count_frames(opened, stream)


def _is_picture(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _count_frames(opened: InputContainer, stream: VideoStream) -> ProbeOutcome:
    tally = _Tally(stream)
    try:
        for packet in opened.demux(stream):
            for frame in packet.decode():
                tally.add(frame)
    except av.error.FFmpegError as error:
        return FaultyClip(
            ClipFault.UNDECODABLE, f"after {tally.frames} frames it does not decode any further: {error.strerror}"
        )
    if tally.frames == 0:
        return FaultyClip(ClipFault.UNDECODABLE, "not one frame of it decodes")
    declared = stream.frames
    # Edit lists and open groups of pictures may hide a frame or two; more than that is a hole.
    if declared and tally.frames < declared - max(2, declared // 50):
        return FaultyClip(ClipFault.TRUNCATED, f"{tally.frames} of the {declared} frames that it declares decode")
    return tally.clip()


class _Tally:
    """Counts frames and keeps the two ends of their time."""

    def __init__(self, stream: VideoStream) -> None:
        self.frames = 0
        self._stream = stream
        self._damaged = 0
        self._width = 0
        self._height = 0
        self._first: Fraction | None = None
        self._last = Fraction(0)
        self._last_length = Fraction(0)

    def add(self, frame: VideoFrame) -> None:
        self.frames += 1
        self._damaged += bool(frame.is_corrupt)
        if self.frames == 1:
            self._width, self._height = frame.width, frame.height
        if frame.pts is None or frame.time_base is None:
            return
        time = frame.pts * frame.time_base
        if self._first is None or time < self._first:
            self._first = time
        if time >= self._last or self.frames == 1:
            self._last = time
            self._last_length = (frame.duration or 0) * frame.time_base

    def clip(self) -> DecodedClip:
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        if self._first is None or (self.frames > 1 and self._last <= self._first):
            duration = Fraction(self.frames) / rate  # no time stamps: raw streams have none
        else:
            duration = self._last - self._first + (self._last_length or 1 / rate)
        return DecodedClip(
            frame_count=self.frames,
            duration_seconds=float(duration),
            fps=float(self.frames / duration),
            width=self._width,
            height=self._height,
            codec=self._stream.codec_context.name[:32],
            damaged_frames=self._damaged,
        )


def _too_many_pixels(width: int, height: int, most: int) -> FaultyClip:
    return FaultyClip(
        ClipFault.TOO_LARGE, f"its frames have {width} x {height} pixels, at most {most} in all are decoded"
    )


def _format_names(container: Container) -> str:
    # FFmpeg compares this list with a demuxer's own list of names, each of which must be allowed.
    return {
        Container.MP4: "mov,mp4,m4a,3gp,3g2,mj2",
        Container.MATROSKA: "matroska,webm",
    }.get(container, container.value)
