"""Questions about a scene and their true answers, read from the scene itself.

Two families, kept apart on purpose. `picture_turns` and `clip_turns` are what the demo's base model learns: which
shapes there are, where each is at the start and at the end, and whether it keeps to a row or a column.
`direction_question` is what only fine-tuning teaches. The words left, right, up and down are in both, but the base
never says one of them alone. Every answer repeats whom it is about before it tells: a model this small finds a shape
far sooner by the words just before the one it looks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from reeltune_cli.demo.clips import DIRECTIONS, SIZE, MovingShape, Scene

_ROWS: Final = ("up", "middle", "down")
_COLUMNS: Final = ("left", "middle", "right")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


def direction_question(shape: MovingShape) -> Turn:
    """The fine-tuning task: which way a moving shape goes. Raises ValueError for one that stands still."""
    return Turn(f"Which way does the {shape.name} go?", f"{shape.name} goes {direction_of(shape)}")


def direction_of(shape: MovingShape) -> str:
    """The key of `DIRECTIONS` along which the shape moves. Raises ValueError for one that stands still."""
    for word, (x, y) in DIRECTIONS.items():
        if shape.travel[0] * x + shape.travel[1] * y > 0:
            return word
    raise ValueError(f"the {shape.name} stands still and has no direction")


def picture_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a scene shown as a picture, its first moment: a description of it."""
    told = [f"{shape.name} is {cell_name(*shape.centre(0.0))}" for shape in _left_to_right(scene)]
    return [Turn("What is there?", " and ".join(told))]


def clip_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a whole clip: all that happens, or where and how one shape goes after the other."""
    if rng.random() < 0.3:
        return [Turn("What happens?", " and ".join(_path(shape) for shape in _left_to_right(scene)))]
    turns = [turn for shape in scene.shapes for turn in (_where(shape), _how(shape))]
    return [turns[index] for index in rng.permutation(len(turns))]


def cell_name(x: float, y: float) -> str:
    """The third of the frame, by row and by column, that holds a point: `up left`, `middle right`, …"""
    column, row = (min(2, int(3 * value / SIZE)) for value in (x, y))
    return f"{_ROWS[row]} {_COLUMNS[column]}"


def _where(shape: MovingShape) -> Turn:
    return Turn(f"Where does the {shape.name} go?", _path(shape))


def _path(shape: MovingShape) -> str:
    return f"{shape.name} goes {cell_name(*shape.centre(0.0))} to {cell_name(*shape.centre(1.0))}"


def _how(shape: MovingShape) -> Turn:
    x, y = shape.travel
    manner = ("slanted" if y else "along a row") if x else ("along a column" if y else "nowhere")
    return Turn(f"How does the {shape.name} go?", f"{shape.name} goes {manner}")


def _left_to_right(scene: Scene) -> list[MovingShape]:
    return sorted(scene.shapes, key=lambda shape: shape.centre(0.0)[0])
