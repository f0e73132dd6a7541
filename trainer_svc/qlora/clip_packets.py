"""What a clip's packets say before its frames are decoded: when frames are shown, and what decord would get wrong.

Import and use only inside a decode process (`decode_pool`), as `frame_decoder` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN_FORMATS = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})
"""8 bits a colour. Of these, decord's FFmpeg and PyAV's make the same RGB, to the last bit; of 10 bits they do not."""


@dataclass(frozen=True, slots=True)
class ClipPackets:
    """The packets of a clip's video stream, without those that only prepare later ones."""

    stamps: list[int]
    """When each is shown, in units of `time_base`, ascending. Empty where packets do not say."""
    time_base: float
    """Seconds."""
    trouble: str
    """Why decord would not do with this clip what PyAV does; empty: it would."""


class PacketReader:
    """Opens clips with PyAV."""

    def __init__(self) -> None:
        import av
        import av.logging

        av.logging.set_level(av.logging.PANIC)
        self.errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError, ValueError)
        """What reading a bad clip raises."""
        self._av = av

    @contextmanager
    def open(self, clip: Path, container_format: str) -> Iterator[tuple[Any, Any]]:
        """(the clip, its video stream), to be decoded in one thread. Raises one of `errors`."""
        # The demuxer is forced and only the file itself may be read: a playlist in a clip's clothing opens nothing.
        options = {"protocol_whitelist": "file"}
        with self._av.open(str(clip), format=container_format, options=options) as container:
            if not container.streams.video:
                raise ValueError("the file has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream

    def read(self, clip: Path, container_format: str, *, for_decord: bool) -> ClipPackets:
        """`for_decord`: the first frame is decoded, to see whether there is trouble. Raises one of `errors`."""
        stamps: list[int] = []
        first_frame, trouble, count = None, "", 0
        with self.open(clip, container_format) as (container, stream):
            for packet in container.demux(stream):
                if for_decord and first_frame is None:
                    first_frame = next(iter(packet.decode()), None)
                if not packet.size or packet.is_discard:
                    continue
                if count == 0 and not packet.is_keyframe:
                    trouble = "it begins between two key frames"
                count += 1
                if packet.pts is not None:
                    stamps.append(packet.pts)
            if for_decord and not trouble:
                trouble = _trouble(stamps, count, first_frame)
            return ClipPackets(sorted(stamps), float(stream.time_base), trouble)


def _trouble(stamps: list[int], packets: int, first_frame: Any) -> str:
    if len(stamps) < packets:
        return "some of its packets do not say when they are shown"
    if stamps and min(stamps) < stamps[0]:
        return "it begins with frames that are made from others before them"
    if first_frame is None:
        return "its first frame does not decode"
    if round(first_frame.rotation / 90) % 2:
        return "it is to be turned by a quarter"
    if first_frame.format.name not in PLAIN_FORMATS:
        return f"its pixels are {first_frame.format.name}"
    return ""
