"""Clips for the tests of the catalog: real H.264, and files that only pretend to be."""

from __future__ import annotations

import functools
import io

import av
import numpy as np


@functools.cache
def h264_clip(seed: int = 0, *, frames: int = 8, width: int = 64, height: int = 64, container: str = "mp4") -> bytes:
    """Returns a clip of a moving bar, at 8 frames a second; other seeds give other bytes."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        for number in range(frames):
            pixels = np.zeros((height, width, 3), np.uint8)
            for bit in range(10):  # the seed, as a bar code
                pixels[: height // 4, bit * width // 10 : (bit + 1) * width // 10] = 255 * (seed >> bit & 1)
            left = number * 4 % width
            pixels[height // 2 :, left : left + 8] = 255
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


def png() -> bytes:
    """Returns a picture."""
    return bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301010018dd8db0"
        "0000000049454e44ae426082"
    )


def truncated() -> bytes:
    """Returns a clip whose end is missing."""
    whole = h264_clip(90, frames=24)
    return whole[: len(whole) * 2 // 3]


def damaged() -> bytes:
    """Returns a clip whose container is sound and whose pictures are not."""
    clip = bytearray(h264_clip(91, frames=24))
    start = clip.index(b"mdat") + 800
    for position in range(start, start + 200):
        clip[position] ^= 0xFF
    return bytes(clip)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty.mp4": (b"", "CLIP_EMPTY"),
    "text.mp4": (b"this is no video, whatever its name says\n" * 20, "CLIP_NOT_VIDEO"),
    "picture.mp4": (png(), "CLIP_NOT_VIDEO"),
    "playlist.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n", "CLIP_NOT_VIDEO"),
    "concat.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "CLIP_NOT_VIDEO"),
    "ftyp.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "CLIP_UNDECODABLE"),
}
"""By name: the bytes, and the reason of the issue that they must give."""
