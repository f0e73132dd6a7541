"""Files that want to do harm to whoever decodes them, made on the spot."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import av
import numpy as np

from tests.rpc.catalog.clips import h264_clip, png, truncated

NO_VIDEO = {"CLIP_NOT_VIDEO"}
BROKEN = {"CLIP_UNDECODABLE", "CLIP_TRUNCATED"}
SOUND = {""}
TOO_MUCH = {"CLIP_TOO_LARGE", "CLIP_UNDECODABLE"}


def box(kind: bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    """Returns a box of MP4, which may lie about its length."""
    return struct.pack(">I", len(content) + 8 if length is None else length) + kind + content


FTYP = box(b"ftyp", b"isom\0\0\0\0isommp42")


def patched(marker: bytes, offset: int, value: bytes, data: bytes | None = None) -> bytes:
    """Returns a sound clip with bytes written over `offset` after a marker."""
    clip = bytearray(data or h264_clip(70, frames=24))
    start = clip.index(marker) + offset
    clip[start : start + len(value)] = value
    return bytes(clip)


def deep(levels: int) -> bytes:
    """Returns boxes within boxes."""
    content = b""
    for number in range(levels):
        content = box((b"trak", b"mdia", b"minf")[number % 3], content)
    return FTYP + box(b"moov", content)


def encoded(codec: str, container: str, *, streams: int = 1, frames: int = 4) -> bytes:
    """Returns a clip of so many streams."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        made = [output.add_stream(codec, rate=8) for _ in range(streams)]
        for stream in made:
            stream.width = stream.height = 64
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for stream in made:
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 20, np.uint8), "rgb24")
                output.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            output.mux(stream.encode(None))
    return target.getvalue()


def huge_jpegs() -> bytes:
    """Returns Motion JPEG whose pictures say that they have 32768 x 32768 pixels; the container says 64 x 64."""
    clip = encoded("mjpeg", "matroska")
    return clip.replace(b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40", b"\xff\xc0\x00\x11\x08\x80\x00\x80\x00")


def zipped() -> bytes:
    """Returns an archive."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.txt", "hello")
    return target.getvalue()


def endless() -> bytes:
    """Returns a transport stream that goes on and on: minutes of work in few bytes."""
    return h264_clip(71, frames=60, width=1920, height=1080, container="mpegts") * 400


HOSTILE: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "empty": (lambda: b"", {"CLIP_EMPTY"}),
    "cut": (truncated, {"CLIP_TRUNCATED"}),
    "cut to its first box": (lambda: FTYP, BROKEN),
    "cut within a header": (lambda: FTYP + b"\0\0\0", BROKEN),
    "without its index": (lambda: FTYP + box(b"mdat", bytes(5000)), BROKEN),
    "half a matroska": (lambda: (clip := h264_clip(72, frames=24, container="matroska"))[: len(clip) // 2], BROKEN),
    "text": (lambda: b"no video, whatever its name says\n" * 50, NO_VIDEO),
    "picture": (png, NO_VIDEO),
    "gif": (lambda: b"GIF89a\1\0\1\0\0\0\0;", NO_VIDEO),
    "web page": (lambda: b"<!doctype html><script>alert(1)</script>", NO_VIDEO),
    "playlist": (lambda: b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", NO_VIDEO),
    "concat script": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", NO_VIDEO),
    "session description": (lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", NO_VIDEO),
    "dash manifest": (lambda: b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>', NO_VIDEO),
    "archive": (zipped, NO_VIDEO),
    "archive and clip": (lambda: zipped() + h264_clip(73), NO_VIDEO),
    "clip and archive": (lambda: h264_clip(73) + zipped(), BROKEN | SOUND),
    "clip with a web page inside": (
        lambda: FTYP + box(b"free", b"<html><script>alert(1)</script>") + h264_clip(73),
        BROKEN | SOUND,
    ),
    "playlist in a box": (lambda: box(b"free", b"#EXTM3U\nfile:///etc/passwd\n") + b"#EXTM3U\n", BROKEN),
    "more frames than there are": (lambda: patched(b"stsz", 12, struct.pack(">I", 9000)), BROKEN | SOUND),
    "four thousand million frames": (lambda: patched(b"stsz", 12, b"\xff\xff\xff\xff"), BROKEN | SOUND),
    "time without end": (lambda: patched(b"stts", 12, b"\x7f\xff\xff\xff\x7f\xff\xff\xff"), BROKEN | SOUND),
    "chunks beyond the end": (lambda: patched(b"stco", 12, b"\xff\xff\xff\xf0"), BROKEN),
    "descriptions without number": (lambda: patched(b"stsd", 8, b"\x7f\xff\xff\xff"), BROKEN | SOUND),
    "a box of a terabyte": (lambda: FTYP + struct.pack(">I4sQ", 1, b"moov", 1 << 40), {"CLIP_TRUNCATED"}),
    "a box of minus one": (lambda: FTYP + struct.pack(">I4sQ", 1, b"moov", (1 << 64) - 1), {"CLIP_TRUNCATED"}),
    "a box shorter than its header": (lambda: FTYP + box(b"moov", bytes(100), length=4), BROKEN),
    "ten thousand boxes deep": (lambda: deep(10_000), BROKEN | NO_VIDEO),
    "a hundred thousand boxes": (lambda: FTYP + box(b"moov", box(b"trak") * 100_000), BROKEN),
    "40 streams": (lambda: encoded("mpeg4", "matroska", streams=40), {"CLIP_UNDECODABLE"}),
    "a frame of 32k x 32k, by its container": (
        lambda: patched(b"avc1", 28, struct.pack(">HH", 32768, 32768)),
        TOO_MUCH | SOUND,
    ),
    "a frame of 32k x 32k, by itself": (huge_jpegs, TOO_MUCH),
    "endless": (endless, {"CLIP_TIMEOUT"}),
}
"""By name: what makes the bytes, and the reasons that they may be refused for; an empty one: it is a clip after all."""
