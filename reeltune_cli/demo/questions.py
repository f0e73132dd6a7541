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
    """What base training asks of a scene shown as a picture, its first moment: a description, then single facts."""
    told = " and ".join(f"{shape.name} {cell_name(*shape.centre(0.0))}" for shape in _left_to_right(scene))
    turns = [Turn(f"Where is the {shape.name}?", cell_name(*shape.centre(0.0))) for shape in scene.shapes]
    return [Turn("What is there?", told), *_shuffled(rng, [*turns, *_facts(rng, scene)])]


def clip_turns(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What base training asks of a whole clip: who goes from where to where, then single facts about each moment."""
    told = " and ".join(
        f"{shape.name} {cell_name(*shape.centre(0.0))} to {cell_name(*shape.centre(1.0))}"
        for shape in _left_to_right(scene)
    )
    turns = [turn for shape in scene.shapes for turn in _where(shape)]
    turns += [_facts(rng, scene)[int(rng.integers(2))], _moves(rng, scene)]
    return [Turn("What happens?", told), *_shuffled(rng, turns)]


def cell_name(x: float, y: float) -> str:
    """The third of the frame, by row and by column, that holds a point: `up-left`, `middle-right`, …"""
    column, row = (min(2, int(3 * value / SIZE)) for value in (x, y))
    return f"{_ROWS[row]}-{_COLUMNS[column]}"


def _where(shape: MovingShape) -> list[Turn]:
    return [
        Turn(f"Where is the {shape.name} at the start?", cell_name(*shape.centre(0.0))),
        Turn(f"Where is the {shape.name} at the end?", cell_name(*shape.centre(1.0))),
    ]


def _moves(rng: np.random.Generator, scene: Scene) -> Turn:
    shape = scene.shapes[int(rng.integers(2))]
    return Turn(f"Does the {shape.name} move?", "yes" if any(shape.travel) else "no")


def _facts(rng: np.random.Generator, scene: Scene) -> list[Turn]:
    shape = scene.shapes[int(rng.integers(2))]
    facts = [_presence(rng, scene), Turn(f"What shape is {shape.colour}?", shape.kind)]
    if scene.shapes[0].kind != scene.shapes[1].kind:
        facts.append(Turn(f"What colour is the {shape.kind}?", shape.colour))
    return facts


def _presence(rng: np.random.Generator, scene: Scene) -> Turn:
    shape = scene.shapes[int(rng.integers(2))]
    if rng.random() < 0.5:
        return Turn(f"Is there a {shape.name}?", "yes")
    absent = [colour for colour in COLOURS if colour not in {seen.colour for seen in scene.shapes}]
    return Turn(f"Is there a {rng.choice(absent)} {rng.choice(KINDS)}?", "no")


def _left_to_right(scene: Scene) -> list[MovingShape]:
    return sorted(scene.shapes, key=lambda shape: shape.centre(0.0)[0])


def _shuffled(rng: np.random.Generator, turns: list[Turn]) -> list[Turn]:
    return [turns[index] for index in rng.permutation(len(turns))]
