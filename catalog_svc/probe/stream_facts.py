"""What a clip's container and packets say, before its frames are decoded. Runs only inside a probe child."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from catalog_svc.domain.clip import ClipFault, FaultyClip
from catalog_svc.domain.container import Container

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
DECORD_PIXELS = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})
"""Of these alone decord makes the colours that PyAV makes: training decodes no others with it."""
_PLAIN_PIXELS = frozenset({"yuv420p", "yuvj420p"})
_JITTER = 0.05
"""By how much of the mean the distance of two frames may differ in a clip of even rate: containers round times."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is known of a clip whose first frame has decoded."""

    codec: str
    width: int
    height: int
    """Of a frame as it is shown, in pixels."""
    rotation: int
    """Degrees, clockwise: 0, 90, 180 or 270."""
    has_audio: bool
    is_browser_playable: bool
    packets: int
    """Of the video stream, without those that only prepare later ones: as many as frames, if all is well."""
    declared_frames: int
    """By the container, which may lie; 0: it does not say."""
    duration: Fraction
    """Seconds from the first frame to the end of the last, by the packets' times; 0 where these are missing."""
    rate: Fraction
    """Frames a second as the container has it."""
    is_variable_frame_rate: bool
    is_marked_corrupt: bool
    """Whether the demuxer found a packet damaged."""
    is_for_decord: bool
    """Whether training would decode it with decord, where it is installed: other clips it leaves to PyAV."""


def open_clip(path: str, container: Container) -> InputContainer:
    """Opens a clip with the one demuxer that its bytes call for, which may open nothing else."""
    options = {"protocol_whitelist": "file", "format_whitelist": _format_names(container)}
    opened: InputContainer = av.open(path, format=container.value, options=options, metadata_errors="replace")
    return opened


def find_stream(opened: InputContainer, max_pixels: int) -> VideoStream | FaultyClip:
    """Returns the video stream, set up to decode, or why there is none that is decoded here."""
    if len(opened.streams) > MAX_STREAMS:
        what = f"it has {len(opened.streams)} streams, at most {MAX_STREAMS} are read"
        return FaultyClip(ClipFault.UNDECODABLE, what)
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
    return stream


def read_facts(
    opened: InputContainer, stream: VideoStream, *, is_webm: bool, beat: Callable[[], None]
) -> StreamFacts | FaultyClip:
    """Reads all packets and decodes the first frame; raises `av.error.FFmpegError`.

    Args:
        opened: At its beginning.
        stream: From `find_stream`.
        is_webm: Whether the file says that it is WebM rather than Matroska.
        beat: Called now and then, to show that this goes on.
    """
    times, tally = array("q"), _PacketTally()
    first: VideoFrame | None = None
    for packet in opened.demux(stream):
        beat()
        if first is None:
            first = next(iter(packet.decode()), None)
        if packet.size and not packet.is_discard:
            tally.add(packet)
            if packet.pts is not None:
                times.append(packet.pts)
    if first is None:
        return FaultyClip(ClipFault.UNDECODABLE, "not one frame of it decodes")
    base = stream.time_base or Fraction(1, 1000)
    ordered = sorted(times) if len(times) == tally.packets else []
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    rotation = round(-first.rotation / 90) * 90 % 360
    is_plain = rotation % 180 == 0 and first.format.name in DECORD_PIXELS
    width, height = (first.height, first.width) if rotation in (90, 270) else (first.width, first.height)
    return StreamFacts(
        codec=stream.codec_context.name[:32],
        width=width,
        height=height,
        rotation=rotation,
        has_audio=bool(opened.streams.audio),
        is_browser_playable=_plays_in_browsers(opened, stream, first, is_webm=is_webm),
        packets=tally.packets,
        declared_frames=stream.frames,
        duration=_duration(ordered, base, tally.last_length, rate),
        rate=rate,
        is_variable_frame_rate=_is_uneven(ordered, float(base)),
        is_marked_corrupt=tally.is_corrupt,
        is_for_decord=is_plain and tally.begins_whole and bool(ordered),
    )


class _PacketTally:
    """Counts packets, and knows how long the last one is shown."""

    def __init__(self) -> None:
        self.packets = 0
        self.is_corrupt = False
        self.last_length = 0
        self.begins_whole = False
        """Whether it begins with a key frame, and shows nothing before that one."""
        self._first: int | None = None
        self._latest: int | None = None

    def add(self, packet: Packet[Any]) -> None:
        if self.packets == 0:
            self.begins_whole, self._first = packet.is_keyframe, packet.pts
        elif packet.pts is not None and self._first is not None and packet.pts < self._first:
            self.begins_whole = False
        self.packets += 1
        self.is_corrupt |= packet.is_corrupt
        if packet.pts is not None and (self._latest is None or packet.pts >= self._latest):
            self._latest = packet.pts
            self.last_length = packet.duration or 0


def _duration(times: list[int], base: Fraction, last_length: int, rate: Fraction) -> Fraction:
    if not times or (len(times) > 1 and times[-1] <= times[0]):
        return Fraction(0)
    return (times[-1] - times[0]) * base + (last_length * base or 1 / rate)


def _is_uneven(times: list[int], base: float) -> bool:
    if len(times) < 3:
        return False
    steps = [later - earlier for earlier, later in pairwise(times)]
    mean = (times[-1] - times[0]) / len(steps)
    return max(steps) - min(steps) > max(2.0 if base > 1e-4 else 2e-4 / base, _JITTER * mean)


def _plays_in_browsers(opened: InputContainer, stream: VideoStream, first: VideoFrame, *, is_webm: bool) -> bool:
    if first.format.name not in _PLAIN_PIXELS:
        return False
    if "mp4" in opened.format.name.split(","):
        return stream.codec_context.name == "h264" and opened.metadata.get("major_brand", "").strip() != "qt"
    return is_webm and stream.codec_context.name in ("vp8", "vp9")


def _is_picture(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


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
