"""Which rows are asked about after training."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.domain.chosen_rows import choose_rows, shown_clips
from trainer_svc.domain.errors import NoSuchRowsError
from trainer_svc.qlora.dataset_rows import KNOWN_SPLITS


def row(number: int, split: str) -> dict[str, Any]:
    video = {"type": "video", "uri": f"clips/{number}.mp4"}
    return {"sample_id": f"s{number}", "split": split, "messages": [{"role": "user", "content": [video]}]}


ROWS = [row(number, split) for number, split in enumerate(["train", "val", "test", "train", "eval", "hard"])]


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [each["sample_id"] for each in rows]


def test_the_rows_held_out_are_those_that_nothing_was_learned_from() -> None:
    name, chosen = choose_rows(ROWS, "", limit=0, seed=0)

    assert (name, ids(chosen)) == ("eval", ["s1", "s4"])
    assert {each["split"] for each in chosen} == {"eval"}
    assert shown_clips(chosen) == {"clips/1.mp4", "clips/4.mp4"}


@pytest.mark.parametrize(("called", "split"), KNOWN_SPLITS.items())
def test_a_split_has_the_names_that_the_training_library_gives_it(called: str, split: str) -> None:
    assert choose_rows([row(0, called)], split, limit=0, seed=0)[0] == split
    assert choose_rows([row(0, split)], called, limit=0, seed=0)[0] == split


def test_test_rows_stand_in_for_eval_rows_and_trained_rows_only_where_they_may() -> None:
    few = [ROWS[0], ROWS[2]]

    assert choose_rows(few, "", limit=0, seed=0)[0] == "test"
    assert choose_rows(few[:1], "", limit=0, seed=0, may_be_trained=True)[0] == "train"
    with pytest.raises(NoSuchRowsError, match=r"eval or test; it has train \(1\)"):
        choose_rows(few[:1], "", limit=0, seed=0)


def test_any_split_of_the_dataset_can_be_named() -> None:
    assert ids(choose_rows(ROWS, "hard", limit=0, seed=0)[1]) == ["s5"]
    assert ids(choose_rows(ROWS, "validation", limit=0, seed=0)[1]) == ["s1", "s4"]
    with pytest.raises(NoSuchRowsError, match=r"easy; it has train \(2\), eval \(2\)"):
        choose_rows(ROWS, "easy", limit=0, seed=0)


@given(st.integers(1, 60), st.integers(0, 70), st.integers(0, 5))
def test_so_many_rows_in_their_own_order(count: int, limit: int, seed: int) -> None:
    rows = [row(number, "eval") for number in range(count)]
    _, chosen = choose_rows(rows, "", limit=limit, seed=seed)
    _, fewer = choose_rows(rows, "", limit=max(1, limit - 1), seed=seed)

    assert len(chosen) == (min(limit, count) if limit else count)
    assert ids(chosen) == [each for each in ids(rows) if each in set(ids(chosen))]
    assert set(ids(fewer)) <= set(ids(chosen)), "more rows are the same rows and some"
