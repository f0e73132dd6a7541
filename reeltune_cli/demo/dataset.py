"""Writes the demo's dataset as users have theirs: a folder of clips and a CSV file of questions and answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final, Literal

import numpy as np

from reeltune_cli.demo.clips import COLOURS, Scene, sample_scene, write_clip
from reeltune_cli.demo.questions import order_turns

Split = Literal["train", "test"]
"""`test` rows are held out: no trainer reads them, not even for its evaluation loss."""

ANNOTATION_FILE: Final = "annotations.csv"
COLUMNS: Final = ("video", "question", "answer", "split")
_PAIRS: Final = tuple(permutations(COLOURS, 2))
"""Every first and last colour; clips take them in turn, so that answers are balanced."""
_SPLIT_SEEDS: Final[dict[Split, int]] = {"train": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One line of the annotation file."""

    video: str
    """Path of the clip relative to the dataset folder."""
    question: str
    answer: str
    split: Split


def write_dataset(folder: Path, *, seed: int, train_clips: int, held_out_clips: int) -> list[DemoRow]:
    """Writes `clips/*.mp4` and `annotations.csv` to a new or empty folder and returns the rows.

    A training clip is asked for its first and for its last colour, so no clip has one answer; a held-out clip is asked
    for one of them. Answers are exactly balanced when the counts are multiples of 30. The same
    arguments give the same files. Raises FileExistsError for a folder that holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder for the dataset")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows: list[DemoRow] = []
    counts: dict[Split, int] = {"train": train_clips, "test": held_out_clips}
    for split, count in counts.items():
        for number, scene in enumerate(scenes(seed, split, count)):
            video = f"clips/{split}-{number:04d}.mp4"
            write_clip(scene, folder / video)
            first, last = order_turns(scene)
            # Held-out clips are asked for their first or their last colour, turning after every full round of pairs.
            turns = (first, last) if split == "train" else ((first, last)[number // len(_PAIRS) % 2],)
            rows += [DemoRow(video, turn.question, turn.answer, split) for turn in turns]
    _write_annotations(folder / ANNOTATION_FILE, rows)
    return rows


def scenes(seed: int, split: Split, count: int) -> Iterator[Scene]:
    """The scenes behind a split's clips, in order; the splits draw from separate random streams."""
    for number in range(count):
        rng = np.random.default_rng([seed, _SPLIT_SEEDS[split], number])
        yield sample_scene(rng, _PAIRS[number % len(_PAIRS)])


def _write_annotations(path: Path, rows: list[DemoRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((row.video, row.question, row.answer, row.split) for row in rows)
