"""A few frames of a clip as pictures: for its hash and its poster. Runs only inside a probe child."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.codec import CodecContext
from av.video.frame import VideoFrame

from catalog_svc.probe.protocol import MAX_POSTER_BYTES

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""

HASHED_FRAMES = 8
POSTER_SIDE = 320
"""Pixels of a poster's longer side, at most."""
_SIDE = 32
_STILL = 32
"""Bits of the hash that tell what there is to see; the others tell how it changes."""
_NOTHING = 0.25
"""In grey levels of 0 to 255. A smaller coefficient is none: a flat or still clip would else be hashed by its noise."""


class Pictures:
    """Takes frames as they are decoded and keeps what is needed of them."""

    def __init__(self, frames: int) -> None:
        """`frames`: how many are expected. Should there be fewer, the last one stands for those that are missing."""
        spread = [(2 * number + 1) * frames // (2 * HASHED_FRAMES) for number in range(HASHED_FRAMES)]
        self._hashed = frozenset(min(number, frames - 1) for number in spread)
        self._middle = frames // 2
        self._thumbnails: dict[int, npt.NDArray[np.float32]] = {}
        self._spread = spread
        self.poster = b""

    def offer(self, number: int, read: Callable[[], Pixels]) -> None:
        """Looks at frame `number`, counted from 0; `read` copies its pixels, which few frames need."""
        if number not in self._hashed and number != self._middle:
            return
        pixels = read()
        if number in self._hashed:
            self._thumbnails[number] = _thumbnail(pixels)
        if number == self._middle:
            self.poster = _poster(pixels)

    def hash(self) -> int:
        """Returns the perceptual hash of what was offered: 64 bits, unsigned; see `perceptual_hash`."""
        if not self._thumbnails:
            return 0
        last = max(self._thumbnails)
        frames = [self._thumbnails.get(min(number, last), self._thumbnails[last]) for number in self._spread]
        return perceptual_hash(np.stack(frames))


def perceptual_hash(frames: npt.NDArray[np.float32]) -> int:
    """Returns 64 bits that change little when a clip is scaled or encoded again.

    The signs of low frequencies of a three-dimensional discrete cosine transform: B. Coskun, B. Sankur and N. Memon,
    "Spatio-temporal transform based video hashing", IEEE Transactions on Multimedia 8 (2006). Half of the bits are
    taken from the mean of all frames, which says most of clips that hardly move, half from how frames change.

    Args:
        frames: float (8, 32, 32), grey levels of 0 to 255, evenly spread over the clip.
    """
    height, width = _cosines(_SIDE), _cosines(_SIDE)
    spectrum = np.einsum("at,thw,bh,cw->abc", _cosines(HASHED_FRAMES), frames, height, width, optimize=True)
    still = [spectrum[0, row, column] for row, column in _zigzag(_STILL)]
    moving = [spectrum[time, row, column] for time in (1, 2) for row in range(4) for column in range(4)]
    bits = 0
    # Of both kinds in turn, so that each stretch of the hash tells clips apart that differ in one of them only.
    for pair in zip(still, moving, strict=True):
        for coefficient in pair:
            bits = bits << 1 | int(coefficient > _NOTHING)
    return bits


def _cosines(count: int) -> npt.NDArray[np.float64]:
    """Returns the matrix (count, count) of the cosine transform, scaled so that a coefficient is in grey levels."""
    position = np.arange(count)
    cosines: npt.NDArray[np.float64] = np.cos(np.pi / count * (position[None, :] + 0.5) * position[:, None]) / count
    return cosines


def _zigzag(count: int) -> list[tuple[int, int]]:
    """Returns the `count` lowest frequencies but the mean, by rising sum."""
    places = [(row, column) for row in range(_SIDE) for column in range(_SIDE) if row or column]
    return sorted(places, key=lambda place: (place[0] + place[1], place))[:count]


def _thumbnail(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Returns float (32, 32): the mean grey level of each tile of a frame."""
    height, width = pixels.shape[:2]
    # Four pixels in each direction are enough of a tile.
    reduced = pixels[:: max(1, height // (4 * _SIDE)), :: max(1, width // (4 * _SIDE))].astype(np.float32)
    grey = reduced @ np.array([0.299, 0.587, 0.114], np.float32)
    for axis in (0, 1):
        edges = np.arange(_SIDE + 1) * grey.shape[axis] // _SIDE
        lengths = np.maximum(1, np.diff(edges)).astype(np.float32)
        grey = np.add.reduceat(grey, edges[:-1], axis=axis) / np.expand_dims(lengths, 1 - axis)
    return grey


def _poster(pixels: Pixels) -> bytes:
    """Returns a JPEG, or nothing if it would be larger than a poster may be."""
    height, width = pixels.shape[:2]
    scale = min(1.0, POSTER_SIDE / max(height, width))
    width, height = (max(2, math.floor(side * scale) // 2 * 2) for side in (width, height))
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = frame.reformat(width, height, "yuvj420p")
    encoder = CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": "5", "qmax": "5"}
    frame.pts, frame.time_base = 0, encoder.time_base
    data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    return data if len(data) <= MAX_POSTER_BYTES else b""


def upright(frame: av.VideoFrame) -> Pixels:
    """Returns a frame of PyAV as it is shown."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, k=round(frame.rotation / 90)) if frame.rotation else pixels
