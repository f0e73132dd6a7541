"""Draws short clips of two moving shapes and encodes them as real H.264: what the demo and the tests train on.

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
DIRECTIONS: Final[dict[str, tuple[int, int]]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Each answer with its unit step in image coordinates: x grows to the right, y grows downwards."""
BACKGROUNDS: Final = ((22, 22, 26), (18, 30, 58), (52, 26, 28), (24, 48, 34), (62, 56, 46), (44, 34, 62))

# With its lookahead on, or several threads, x264 codes the same tiny frames in slightly different ways from run to run.
_X264_OPTIONS: Final = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0:rc-lookahead=0:threads=1"}
_RADIUS = (6.4, 8.0)
_TRAVEL = (19.0, 24.0)
_NOISE_STDDEV = (3.0, 8.0)


@dataclass(frozen=True, slots=True)
class MovingShape:
    """One shape and the straight path of its centre."""

    colour: str
    """A key of `COLOURS`."""
    kind: str
    """One of `KINDS`."""
    radius: float
    """Half the shape's extent, in pixels."""
    middle: tuple[float, float]
    """Where the centre is half-way through the clip: x, y in pixels."""
    travel: tuple[float, float]
    """How far the centre goes from the first frame to the last: dx, dy in pixels."""

    @property
    def name(self) -> str:
        """How questions call it, such as `red circle`."""
        return f"{self.colour} {self.kind}"

    def centre(self, moment: float) -> tuple[float, float]:
        """The centre's x, y at `moment`, 0 being the first frame and 1 the last."""
        along = moment - 0.5
        return self.middle[0] + along * self.travel[0], self.middle[1] + along * self.travel[1]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that fixes a clip's pixels."""

    shapes: tuple[MovingShape, MovingShape]
    """Drawn in this order; their colours differ."""
    background: tuple[int, int, int]
    noise_stddev: float
    """Spread of the noise laid on every pixel of every frame, in grey levels."""
    noise_seed: int


def sample_scene(rng: np.random.Generator, directions: tuple[str, str]) -> Scene:
    """A random scene whose two shapes move in these `directions` (keys of `DIRECTIONS`).

    The half-way positions do not depend on the directions, nor does anything else that one frame shows there: the
    middle of a clip tells nothing about the way its shapes move.
    """
    colours = rng.choice(list(COLOURS), size=2, replace=False)
    middles = _two_points(rng, _RADIUS[1] + _TRAVEL[1] / 2)
    shapes = []
    for colour, middle, direction in zip(colours, middles, directions, strict=True):
        kind, radius, distance = str(rng.choice(KINDS)), float(rng.uniform(*_RADIUS)), float(rng.uniform(*_TRAVEL))
        x, y = DIRECTIONS[direction]
        shapes.append(
            MovingShape(str(colour), kind, radius, (float(middle[0]), float(middle[1])), (x * distance, y * distance))
        )
    return _scene(rng, shapes[0], shapes[1])


def sample_base_scene(rng: np.random.Generator) -> Scene:
    """A random scene of base training: wider than `sample_scene`, its shapes start anywhere and may stand still.

    A quarter stand still, a third go from anywhere to anywhere, the rest run along a row or a column.
    """
    colours = rng.choice(list(COLOURS), size=2, replace=False)
    starts = _two_points(rng, _RADIUS[1])
    shapes = []
    for colour, start in zip(colours, starts, strict=True):
        radius = float(rng.uniform(*_RADIUS))
        travel = _base_travel(rng, start)
        middle = (float(start[0] + travel[0] / 2), float(start[1] + travel[1] / 2))
        shapes.append(MovingShape(str(colour), str(rng.choice(KINDS)), radius, middle, travel))
    return _scene(rng, shapes[0], shapes[1])


def _base_travel(rng: np.random.Generator, start: NDArray[np.float64]) -> tuple[float, float]:
    """A way for a shape to go that keeps it inside the frame."""
    manner = rng.random()
    if manner < 0.25:
        return 0.0, 0.0
    if manner < 0.6:
        x, y = rng.uniform(_RADIUS[1], SIZE - _RADIUS[1], size=2) - start
        return float(x), float(y)
    # From the centre to the margin is the longest way that fits from every start.
    longest = min(_TRAVEL[1], SIZE / 2 - _RADIUS[1])
    ways = np.array(list(DIRECTIONS.values())) * rng.uniform(_TRAVEL[0], longest)
    inside = [way for way in ways if np.all(np.abs(start + way - SIZE / 2) <= SIZE / 2 - _RADIUS[1])]
    x, y = inside[int(rng.integers(len(inside)))]
    return float(x), float(y)


def _two_points(rng: np.random.Generator, margin: float) -> NDArray[np.float64]:
    """Two x, y at least `margin` pixels from every edge, and far enough apart to show two whole shapes."""
    while True:
        points = rng.uniform(margin, SIZE - margin, size=(2, 2))
        if np.hypot(*(points[0] - points[1])) >= 2 * _RADIUS[1] + 1:
            return points


def _scene(rng: np.random.Generator, first: MovingShape, second: MovingShape) -> Scene:
    return Scene(
        shapes=(first, second),
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        noise_stddev=float(rng.uniform(*_NOISE_STDDEV)),
        noise_seed=int(rng.integers(2**31)),
    )


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


def _coverage(shape: MovingShape, moments: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much of every pixel the shape covers at each moment, 0 to 1: edges are soft, so motion is sub-pixel."""
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
    cover: NDArray[np.float32] = np.clip(0.5 - outside, 0.0, 1.0)
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
