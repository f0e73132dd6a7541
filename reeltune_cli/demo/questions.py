"""Questions about a scene and their true answers, read from the scene itself.

Two families, kept apart on purpose. `picture_turns` and `clip_turns` are what the demo's base model learns: to describe
in a fixed form who is where, and who is there first and last. `order_turns` is the fine-tuning task: the clip's order
of events asked in other words and answered with one word. The base sees what is needed, but answers none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from reeltune_cli.demo.clips import SIZE, Scene, Shape

_ROWS: Final = ("up", "middle", "down")
_COLUMNS: Final = ("left", "middle", "right")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


def order_turns(scene: Scene) -> tuple[Turn, Turn]:
    """The fine-tuning task: which of the two colours comes first, and which last."""
    first, last = scene.shapes
    return Turn("Which colour comes first?", first.colour), Turn("Which colour comes last?", last.colour)


def picture_turns(scene: Scene) -> list[Turn]:
    """What base training asks of a scene that is shown as a picture."""
    return [Turn("What is there?", _told([f"{shape.name} {_place(shape)}" for shape in _left_to_right(scene)]))]


def clip_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a whole clip: how it begins and ends, in either order, then all of it."""
    first, last = scene.shapes
    ends = [
        Turn("What is it first?", f"{first.name} {_place(first)}"),
        Turn("What is it last?", f"{last.name} {_place(last)}"),
    ]
    told = [f"{shape.name} {_place(shape)} {_time(shape)}" for shape in _left_to_right(scene)]
    return [*(ends[index] for index in rng.permutation(2)), Turn("What happens?", _told(told))]


def cell_name(x: float, y: float) -> str:
    """The third of the frame, by row and by column, that holds a point: `up left`, `middle right`, …"""
    column, row = (min(2, int(3 * value / SIZE)) for value in (x, y))
    return f"{_ROWS[row]} {_COLUMNS[column]}"


def _told(parts: list[str]) -> str:
    return " and ".join(parts)


def _place(shape: Shape) -> str:
    return cell_name(*shape.centre(sum(shape.seen) / 2))


def _time(shape: Shape) -> str:
    return "first" if sum(shape.seen) < 1 else "last"


def _left_to_right(scene: Scene) -> list[Shape]:
    return sorted(scene.shapes, key=lambda shape: shape.middle[0])
