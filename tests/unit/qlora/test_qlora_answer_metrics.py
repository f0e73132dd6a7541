"""Measures of answers: known values, and what holds for all texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.answer_metrics import estimate, exact_match, normalise, rouge_l, token_f1, tokens

TEXTS = st.text(max_size=40)
WORDS = st.lists(st.sampled_from(["red", "blue", "bar", "moves", "left"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The cat, sat!", "cat sat"),
        ("  A\tred\nBAR. ", "red bar"),
        ("¿Qué?", "qué"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("theatre an' anna", "theatre anna"),
        ("1 + 1 = 2", "1 + 1 = 2"),
        ("ＡＢＣ", "abc"),  # full width
        ("the", ""),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


def test_scripts_without_spaces_are_read_letter_by_letter() -> None:
    assert tokens("红色的球") == ["红", "色", "的", "球"]
    assert tokens("ボール is red") == ["ボ", "ー", "ル", "is", "red"]
    assert 0 < rouge_l("红球", "红色的球") < 1


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "longest"),
    [
        # The worked example of Lin (2004): "police killed the gunman", of which two other sentences share two words,
        # one in order and one not.
        ("police kill the gunman", "police killed the gunman", 2 / 3, 2 / 3),
        ("the gunman kill police", "police killed the gunman", 2 / 3, 1 / 3),
        ("red", "red", 1.0, 1.0),
        ("red", "blue", 0.0, 0.0),
        ("", "blue", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("the", "", 1.0, 1.0),
        ("red red red", "red", 0.5, 0.5),
        ("red bar", "bar red", 1.0, 0.5),
    ],
)
def test_known_values(answer: str, reference: str, f1: float, longest: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert rouge_l(answer, reference) == pytest.approx(longest)


@given(TEXTS, TEXTS)
def test_measures_are_symmetric_and_bounded(one: str, other: str) -> None:
    for measure in (exact_match, token_f1, rouge_l):
        assert 0.0 <= measure(one, other) <= 1.0
        assert measure(one, other) == measure(other, one)
        assert measure(one, one) == 1.0
    assert exact_match(one, other) <= rouge_l(one, other) <= token_f1(one, other) + 1e-12


@given(TEXTS)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(WORDS, WORDS, WORDS)
def test_words_around_an_answer_lower_its_score_only(before: str, answer: str, after: str) -> None:
    assert rouge_l(f"{before} {answer} {after}", answer) == pytest.approx(
        2 * len(answer.split()) / (len(f"{before} {answer} {after}".split()) + len(answer.split()))
    )


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_an_interval_holds_its_mean_and_repeats(values: list[float], seed: int) -> None:
    found = estimate(values, seed)

    assert min(values) - 1e-9 <= found.low <= found.mean <= found.high <= max(values) + 1e-9
    assert found == estimate(values, seed)


def test_an_interval_narrows_with_more_rows() -> None:
    few, many = estimate([0, 1] * 5, 0), estimate([0, 1] * 500, 0)

    # 1.96 × 0.5 / √n on either side.
    assert (many.low, many.high) == pytest.approx((0.469, 0.531), abs=0.01)
    assert (few.low, few.high) == pytest.approx((0.2, 0.8), abs=0.11)
    assert estimate([1.0] * 9, 0).low == 1.0
