"""The glossary: one line for a word, in the order in which one looks for it."""

from __future__ import annotations

from pathlib import Path

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_words_stand_once_and_in_order() -> None:
    lines = GLOSSARY.read_text(encoding="utf-8").partition("|---|---|\n")[2].splitlines()
    words = [line.split("|")[1].strip().lower() for line in lines]

    assert words
    assert words == sorted(set(words))
