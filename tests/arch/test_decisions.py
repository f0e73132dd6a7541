"""Decisions: numbered without a gap; the same in the name of a file, in its title and in the index."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "adr"


def test_the_numbers_of_decisions_follow_one_another() -> None:
    files = sorted(DECISIONS.glob("0*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        title = file.read_text(encoding="utf-8").partition("\n")[0]
        assert title.startswith(f"# {int(file.name[:4])}. "), f"{file.name}: {title}"


def test_the_index_has_each_with_its_status() -> None:
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| (.+) \|$", (DECISIONS / "README.md").read_text("utf-8"), re.M)

    assert [name for _, _, name, _ in rows] == sorted(file.name for file in DECISIONS.glob("0*.md"))
    for number, title, name, status in rows:
        text = (DECISIONS / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. {title}\n")
        assert status.startswith(("accepted", "superseded"))
        later = re.findall(r"\d+", status)
        told = re.search(r"^(?:Amended|Superseded) by .*", text, re.M)
        assert re.findall(r"\[(\d+)\]", told[0] if told else "") == later, name
