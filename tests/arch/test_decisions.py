"""Decisions: numbered without a gap, no number twice, and the same in the file's name and in its title."""

from __future__ import annotations

from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "adr"


def test_the_numbers_of_decisions_follow_one_another() -> None:
    files = sorted(DECISIONS.glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        title = file.read_text(encoding="utf-8").partition("\n")[0]
        assert title.startswith(f"# {int(file.name[:4])}. "), f"{file.name}: {title}"
