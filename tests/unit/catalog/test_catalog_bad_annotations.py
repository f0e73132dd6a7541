"""Annotation files that lead astray: paths out of the folder, lines without end, ids that come twice."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from catalog_svc.domain import records
from catalog_svc.domain.annotations import plan_annotations
from catalog_svc.domain.dataset_info import DatasetInfo
from catalog_svc.domain.issue import Issue
from tests.unit.catalog.annotation_texts import parse, parse_value

MIB = 1024**2


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../a.mp4",
        "clips/../../a.mp4",
        "clips/../a.mp4",
        "./../a.mp4",
        "clips//a.mp4",
        "clips/",
        "C:\\clips\\a.mp4",
        "clips\\..\\a.mp4",
        "a\0.mp4",
        "a\n.mp4",
        "a\u202e4pm.mp4",
        "a\u2028.mp4",
        "\ufeffa.mp4",
        "a" * 4096 + ".mp4",
        "a/" * 300 + "a.mp4",
        " a.mp4 \x7f",
        "",
        ".",
    ],
    ids=repr,
)
def test_a_path_that_leads_elsewhere_is_an_issue_of_its_row(path: str) -> None:
    for value in ({"video": path, "caption": "x"}, {"videos": [path], "messages": MESSAGES}):
        parsed = parse_value(value)
        assert parsed.rows == []
        (found,) = parsed.issues
        assert found.row == 1
        assert found.reason in ("CLIP_PATH_INVALID", "ROW_INVALID", "CLIP_NOT_NAMED"), found
        assert len(found.message) <= 500
        assert not any(mark in found.message for mark in "\0\n")


MESSAGES = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A bar."}]


GOOD = json.dumps({"video": "a.mp4", "caption": "x"}).encode()
LONG = {
    "a.jsonl": (GOOD + b'\n{"video": "a.mp4", "caption": "', b'"}\n' + GOOD),
    "a.json": (b"[" + GOOD + b',\n{"video": "a.mp4", "caption": "', b'"},\n' + GOOD + b"]"),
    "a.csv": (b"video,caption\na.mp4,x\na.mp4,", b"\na.mp4,x\n"),
}
"""By file: what stands before and after a text of any length in the second row."""


@pytest.mark.parametrize("name", LONG)
def test_a_line_of_64_mib_takes_no_memory_of_its_length(tmp_path: Path, name: str) -> None:
    before, after = LONG[name]
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(before)
        for _ in range(64):
            file.write(b"x" * MIB)
        file.write(after)
    with path.open("rb") as stream:
        tracemalloc.start()
        found = list(records.read_records(name, stream))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    issues = [each for each in found if isinstance(each, Issue)]
    assert [(each.reason, each.row) for each in issues] == [("ROW_TOO_LONG", 2)]
    # In lines the row after it is read, too; an array ends there.
    assert len(found) - len(issues) == (1 if name == "a.json" else 2)
    assert peak < 16 * MIB, peak / MIB


def test_a_file_of_two_gib_is_not_begun() -> None:
    planned = plan_annotations({"annotations.jsonl": 2 << 30, "a.mp4": 1}, DatasetInfo())
    assert isinstance(planned, Issue)
    assert planned.reason == "ANNOTATIONS_TOO_LARGE"


def test_of_two_rows_with_one_id_the_second_is_told_in_every_form() -> None:
    rows = [{"video": "a.mp4", "caption": caption, "sample_id": "one"} for caption in ("x", "y")]
    lines = "\n".join(json.dumps(row) for row in rows)
    table = "video,caption,sample_id\na.mp4,x,one\na.mp4,y,one\n"
    for name, text in (("a.jsonl", lines), ("a.json", json.dumps(rows)), ("a.csv", table)):
        parsed = parse(name, text.encode())
        (found,) = parsed.issues
        assert len(parsed.rows) == 1
        assert (found.reason, found.row, found.field) == ("SAMPLE_ID_TWICE", 2, "sample_id")


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\n\n"])
def test_a_byte_order_mark_is_passed_over_once(mark: str) -> None:
    row = json.dumps({"video": "a.mp4", "caption": "x"})
    for name, text in (("a.jsonl", row), ("a.json", f"[{row}]"), ("a.csv", "video,caption\na.mp4,x\n")):
        assert len(parse(name, f"{mark}{text}".encode()).rows) == 1
        assert parse(name, f"\ufeff{mark}{text}".encode()).issues
