"""Questions about a scene and their true answers, read from the scene itself.

Two families, kept apart on purpose. `picture_turns` and `clip_turns` are what the demo's base model learns: colours,
shapes, who is there, whether something moves, where it is at the start and at the end. `direction_question` is what
only fine-tuning teaches. The words left, right, up and down are in both, but a base answer is never one of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from reeltune_cli.demo.clips import COLOURS, DIRECTIONS, KINDS, SIZE, MovingShape, Scene

_ROWS: Final = ("up", "middle", "down")
_COLUMNS: Final = ("left", "middle", "right")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


def direction_question(shape: MovingShape) -> Turn:
    """The fine-tuning task: which way a moving shape goes. Raises ValueError for one that stands still."""
    for word, (x, y) in DIRECTIONS.items():
        if shape.travel[0] * x + shape.travel[1] * y > 0:
            return Turn(f"Which way does the {shape.name} move?", word)
    raise ValueError(f"the {shape.name} stands still and has no direction")


def picture_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a scene shown as a picture, its first moment: a description of it."""
    told = [f"{shape.name} {cell_name(*shape.centre(0.0))}" for shape in _left_to_right(scene)]
    return [Turn("What is there?", " and ".join(told))]


def clip_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a whole clip: a description of who goes from where to where."""
    told = [f"{shape.name} {_path(shape)}" for shape in _left_to_right(scene)]
    return [Turn("What happens?", " and ".join(told))]


def question_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks about each shape of a clip by name, in random order."""
    turns = []
    for shape in scene.shapes:
        turns.append(Turn(f"Where does the {shape.name} go?", _path(shape)))
        turns.append(_where(shape)[int(rng.integers(2))])
        turns.append(_manner(shape))
    turns.append(_facts(rng, scene)[0])
    return [turns[index] for index in rng.permutation(len(turns))]


def cell_name(x: float, y: float) -> str:
    """The third of the frame, by row and by column, that holds a point: `up-left`, `middle-right`, …"""
    column, row = (min(2, int(3 * value / SIZE)) for value in (x, y))
    return f"{_ROWS[row]}-{_COLUMNS[column]}"


def _where(shape: MovingShape) -> list[Turn]:
    return [
        Turn(f"Where is the {shape.name} at the start?", cell_name(*shape.centre(0.0))),
        Turn(f"Where is the {shape.name} at the end?", cell_name(*shape.centre(1.0))),
    ]


def _path(shape: MovingShape) -> str:
    return f"{cell_name(*shape.centre(0.0))} to {cell_name(*shape.centre(1.0))}"


def _manner(shape: MovingShape) -> Turn:
    x, y = shape.travel
    manner = ("slanted" if y else "along a row") if x else ("along a column" if y else "not at all")
    return Turn(f"How does the {shape.name} move?", manner)


def _facts(rng: np.random.Generator, scene: Scene) -> list[Turn]:
    """One fact of another kind: a shape's kind or colour, or who is there."""
    shape = scene.shapes[int(rng.integers(2))]
    facts = [_presence(rng, scene), Turn(f"What shape is {shape.colour}?", shape.kind)]
    if scene.shapes[0].kind != scene.shapes[1].kind:
        facts.append(Turn(f"What colour is the {shape.kind}?", shape.colour))
    return [facts[int(rng.integers(len(facts)))]]


def _presence(rng: np.random.Generator, scene: Scene) -> Turn:
    shape = scene.shapes[int(rng.integers(2))]
    if rng.random() < 0.5:
        return Turn(f"Is there a {shape.name}?", "yes")
    absent = [colour for colour in COLOURS if colour not in {seen.colour for seen in scene.shapes}]
    return Turn(f"Is there a {rng.choice(absent)} {rng.choice(KINDS)}?", "no")


def _left_to_right(scene: Scene) -> list[MovingShape]:
    return sorted(scene.shapes, key=lambda shape: shape.centre(0.0)[0])
