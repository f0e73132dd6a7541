"""A short copy of a clip that every browser plays. Runs only inside a probe child."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.logging
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from catalog_svc.domain.clip import FaultyClip
from catalog_svc.domain.container import HEAD_BYTES, sniff
from catalog_svc.probe.pictures import upright
from catalog_svc.probe.protocol import MAX_PROXY_BYTES
from catalog_svc.probe.stream_facts import find_stream, open_clip

_SECONDS = 10
_HEIGHT = 360
_WIDTH = 640
_RATE = 25
_OPTIONS = {"preset": "veryfast", "crf": "28", "maxrate": "1500k", "bufsize": "3000k", "profile": "high"}


def make_proxy(path: Path, max_pixels: int, beat: Callable[[], None]) -> bytes:
    """Returns the first 10 seconds as H.264 in MP4, at most 640 x 360 at 25 frames a second and without sound.

    Nothing if the clip cannot be read, or if the copy would be larger than one may be.
    """
    av.logging.set_level(None)
    with path.open("rb") as file:
        container = sniff(file.read(HEAD_BYTES))
    if container is None:
        return b""
    try:
        with open_clip(str(path), container) as opened:
            stream = find_stream(opened, max_pixels)
            if isinstance(stream, FaultyClip):
                return b""
            data = _encode(opened.decode(stream), beat)
    except (av.error.FFmpegError, MemoryError, ValueError):
        return b""
    return data if len(data) <= MAX_PROXY_BYTES else b""


def _encode(frames: Iterable[VideoFrame], beat: Callable[[], None]) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream: VideoStream | None = None
        written = -1
        for number, frame in enumerate(frames):
            beat()
            time = _time(frame, number)
            if time >= _SECONDS or target.tell() > MAX_PROXY_BYTES:
                break
            place = int(time * _RATE)
            if place <= written:
                continue
            written = place
            picture = VideoFrame.from_ndarray(upright(frame).copy(), format="rgb24")
            if stream is None:
                stream = _add_stream(output, picture)
            picture = picture.reformat(stream.width, stream.height, "yuv420p")
            picture.pts, picture.time_base = place, Fraction(1, _RATE)
            output.mux(stream.encode(picture))
        if stream is not None:
            output.mux(stream.encode(None))
    return target.getvalue()


def _add_stream(output: OutputContainer, picture: VideoFrame) -> VideoStream:
    scale = min(1.0, _HEIGHT / min(picture.width, picture.height), _WIDTH / max(picture.width, picture.height))
    stream = output.add_stream("libx264", rate=_RATE, options=_OPTIONS)
    stream.width, stream.height = (
        max(2, math.floor(side * scale) // 2 * 2) for side in (picture.width, picture.height)
    )
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = 2 * _RATE
    return stream


def _time(frame: VideoFrame, number: int) -> float:
    return frame.time if frame.time is not None else number / _RATE
