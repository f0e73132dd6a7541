"""The dataset folder: what is written, how answers are spread, and that held-out clips are new."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from reeltune_cli.demo.clips import COLOURS
from reeltune_cli.demo.dataset import COLUMNS, DemoRow, write_dataset


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoRow]]:
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    return folder, write_dataset(folder, seed=7, train_clips=60, held_out_clips=30)


def test_annotation_file_names_existing_clips(written: tuple[Path, list[DemoRow]]) -> None:
    folder, rows = written
    with (folder / "annotations.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert lines == [asdict(row) for row in rows]
    assert {row.video for row in rows} == {f"clips/{path.name}" for path in (folder / "clips").iterdir()}


@pytest.mark.parametrize(("split", "each"), [("train", 20), ("test", 5)])
def test_answers_are_balanced(written: tuple[Path, list[DemoRow]], split: str, each: int) -> None:
    counts = Counter(row.answer for row in written[1] if row.split == split)
    assert counts == dict.fromkeys(COLOURS, each)


def test_no_training_clip_has_one_answer(written: tuple[Path, list[DemoRow]]) -> None:
    answers: dict[str, set[str]] = {}
    for row in written[1]:
        if row.split == "train":
            answers.setdefault(row.video, set()).add(row.answer)
    assert all(len(found) == 2 for found in answers.values())


def test_held_out_clips_are_new(written: tuple[Path, list[DemoRow]]) -> None:
    folder, rows = written
    digests = {
        split: {_digest(folder / row.video) for row in rows if row.split == split} for split in ("train", "test")
    }
    assert len(digests["train"]) == 60
    assert len(digests["test"]) == 30
    assert digests["train"].isdisjoint(digests["test"])


def test_same_seed_writes_the_same_files(written: tuple[Path, list[DemoRow]], tmp_path: Path) -> None:
    folder, rows = written
    again = tmp_path / "again"
    assert write_dataset(again, seed=7, train_clips=60, held_out_clips=30) == rows
    for path in sorted(folder.rglob("*.*")):
        assert _digest(path) == _digest(again / path.relative_to(folder)), path.name


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(FileExistsError, match="name a new folder"):
        write_dataset(tmp_path, seed=7, train_clips=1, held_out_clips=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
