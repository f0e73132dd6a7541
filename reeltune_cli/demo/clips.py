"""Draws short clips of two shapes that come and go, and encodes them as real H.264: what the demo trains on.

Nothing here knows torch. A `Scene` is sampled from a numpy generator, so that a seed fixes every pixel; it is drawn
at whatever instants are wanted, so that the demo's base model can be trained on frames that were never encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

SIZE: Final = 64
"""Width and height of a clip in pixels."""
FRAME_COUNT: Final = 16
"""Frames of an encoded clip."""
FPS: Final = 8
"""Frames per second of an encoded clip."""

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (225, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 240),
    "yellow": (235, 220, 50),
    "white": (240, 240, 240),
    "pink": (240, 110, 200),
}
KINDS: Final = ("circle", "square", "triangle")
BACKGROUNDS: Final = ((22, 22, 26), (18, 30, 58), (52, 26, 28), (24, 48, 34), (62, 56, 46), (44, 34, 62))

# With its lookahead on, or several threads, x264 codes the same tiny frames in slightly different ways from run to run.
_X264_OPTIONS: Final = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0:rc-lookahead=0:threads=1"}
_RADIUS = (6.5, 8.5)
_DRIFT = 8.0
_NOISE_STDDEV = (3.0, 8.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape, when it is there, and the straight path along which its centre drifts."""

    colour: str
    """A key of `COLOURS`."""
    kind: str
    """One of `KINDS`."""
    radius: float
    """Half the shape's extent, in pixels."""
    middle: tuple[float, float]
    """Where the centre is half-way through the clip: x, y in pixels."""
    drift: tuple[float, float]
    """How far the centre goes from the first frame to the last: dx, dy in pixels."""
    seen: tuple[float, float]
    """The moments between which it is there; 0 is the clip's first frame and 1 its last."""

    @property
    def name(self) -> str:
        """How base answers call it, such as `red circle`."""
        return f"{self.colour} {self.kind}"

    def centre(self, moment: float) -> tuple[float, float]:
        """The centre's x, y at a moment."""
        along = moment - 0.5
        return self.middle[0] + along * self.drift[0], self.middle[1] + along * self.drift[1]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that fixes a clip's pixels."""

    shapes: tuple[Shape, Shape]
    """In the order in which they come; their colours differ. The second lies over the first."""
    background: tuple[int, int, int]
    noise_stddev: float
    """Spread of the noise laid on every pixel of every frame, in grey levels."""
    noise_seed: int


def sample_scene(rng: np.random.Generator, colours: tuple[str, str] | None = None) -> Scene:
    """A random scene in which one shape comes and goes before the other, in these colours or any two.

    Nothing but time tells which is first: a frame shows the one, the other, or for a moment both or none, and place,
    kind, size and drift do not depend on the order.
    """
    # The change-over lies in the clip's middle third, with an overlap or a gap of a few frames.
    change, overlap = rng.uniform(0.4, 0.6), rng.uniform(-0.08, 0.08)
    return _scene(rng, ((0.0, change + overlap), (change - overlap, 1.0)), colours)


def sample_picture(rng: np.random.Generator) -> Scene:
    """A random scene whose two shapes are there all the time."""
    return _scene(rng, ((0.0, 1.0), (0.0, 1.0)), None)


def _scene(
    rng: np.random.Generator,
    seen: tuple[tuple[float, float], tuple[float, float]],
    colours: tuple[str, str] | None,
) -> Scene:
    picked = colours or [str(colour) for colour in rng.choice(list(COLOURS), size=2, replace=False)]
    middles = _two_points(rng)
    first, second = (_shape(rng, picked[index], middles[index], seen[index]) for index in range(2))
    return Scene(
        shapes=(first, second),
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        noise_stddev=float(rng.uniform(*_NOISE_STDDEV)),
        noise_seed=int(rng.integers(2**31)),
    )


def _shape(rng: np.random.Generator, colour: str, middle: NDArray[np.float64], seen: tuple[float, float]) -> Shape:
    kind, radius = str(rng.choice(KINDS)), float(rng.uniform(*_RADIUS))
    x, y = rng.uniform(-_DRIFT, _DRIFT, size=2)
    return Shape(colour, kind, radius, (float(middle[0]), float(middle[1])), (float(x), float(y)), seen)


def _two_points(rng: np.random.Generator) -> NDArray[np.float64]:
    """Two x, y that keep two shapes whole inside the frame and clear of each other, drift included."""
    margin = _RADIUS[1] + _DRIFT / 2
    while True:
        points = rng.uniform(margin, SIZE - margin, size=(2, 2))
        if np.hypot(*(points[0] - points[1])) >= 2 * _RADIUS[1] + _DRIFT / 2:
            return points


def draw(scene: Scene, moments: NDArray[np.float64]) -> Frames:
    """The scene at each of the `moments` (0 first frame, 1 last): uint8 RGB of shape (frames, SIZE, SIZE, 3)."""
    frames = np.empty((len(moments), SIZE, SIZE, 3), dtype=np.float32)
    frames[:] = scene.background
    for shape in scene.shapes:
        cover = _coverage(shape, moments)[..., None]
        frames += cover * (np.asarray(COLOURS[shape.colour], dtype=np.float32) - frames)
    noise = np.random.default_rng(scene.noise_seed)
    frames += scene.noise_stddev * noise.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _coverage(shape: Shape, moments: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much of every pixel the shape covers at each moment, 0 to 1: edges are soft, so drift is sub-pixel."""
    centres = np.array([shape.centre(float(moment)) for moment in moments], dtype=np.float32)
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    x = grid[None, None, :] - centres[:, 0, None, None]
    y = grid[None, :, None] - centres[:, 1, None, None]
    if shape.kind == "circle":
        outside = np.hypot(x, y) - shape.radius
    elif shape.kind == "square":
        outside = np.maximum(np.abs(x), np.abs(y)) - shape.radius * 0.9
    else:
        # A triangle standing on its base: below two slanted sides and above the base line.
        outside = np.maximum(y - shape.radius * 0.9, (2 * np.abs(x) - y - shape.radius) / np.sqrt(5.0))
    there = (moments >= shape.seen[0]) & (moments <= shape.seen[1])
    cover: NDArray[np.float32] = np.clip(0.5 - outside, 0.0, 1.0) * there[:, None, None].astype(np.float32)
    return cover


def write_clip(scene: Scene, path: Path) -> None:
    """Encodes the scene as an H.264 MP4 of `FRAME_COUNT` frames at `FPS`; the bytes depend on the scene alone."""
    frames = draw(scene, np.linspace(0.0, 1.0, FRAME_COUNT))
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=_X264_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
