"""Annotation files: what people write, what goes wrong in them, and what chance makes of them."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog_svc.domain import json_records, records, text_lines
from catalog_svc.domain.dataset_info import DatasetInfo, parse_dataset_info
from catalog_svc.domain.issue import Severity
from catalog_svc.domain.sample import (
    AnnotationFormat,
    TextPart,
    VideoPart,
    canonical_json,
    messages_from_json,
    messages_to_json,
)
from tests.unit.catalog.annotation_texts import only_issue, parse, parse_value

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<"), min_size=1, max_size=40).filter(
    lambda text: text == text.strip() and text != ""
)
PATH_PART = st.text("abcdefghijklmnopqrstuvwxyzäöü0123456789_-", min_size=1, max_size=8)
PATH = st.lists(PATH_PART, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".mp4")


@given(st.lists(st.tuples(PATH, TEXT, TEXT), min_size=1, max_size=8))
def test_questions_and_answers_come_through_csv_json_and_json_lines_alike(rows: list[tuple[str, str, str]]) -> None:
    target = io.StringIO()
    csv.writer(target).writerows([("video", "question", "answer"), *rows])
    values = [{"video": video, "question": question, "answer": answer} for video, question, answer in rows]
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    parsed = [
        parse("annotations.csv", target.getvalue().encode()),
        parse("annotations.csv", b"\xef\xbb\xbf" + target.getvalue().encode()),
        parse("annotations.json", json.dumps(values, indent=2).encode()),
        parse("annotations.jsonl", lines.encode()),
        parse("annotations.json", b"\n\n" + lines.encode() + b"\n"),
    ]
    for found in parsed:
        assert found.issues == []
        assert found.format is AnnotationFormat.COLUMNS
        assert [row.sample for row in found.rows] == [row.sample for row in parsed[0].rows]
    for row, (video, question, answer) in zip(parsed[0].rows, rows, strict=True):
        user, assistant = row.sample.messages
        assert user.content == (VideoPart(video), TextPart(question))
        assert assistant.content == (TextPart(answer),)
    ids = [row.sample.sample_id for row in parsed[0].rows]
    assert len(set(ids)) == len(ids)


@settings(max_examples=300)
@given(st.sampled_from(["a.csv", "a.json", "a.jsonl"]), st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_make_the_parser_raise(name: str, data: bytes) -> None:
    parsed = parse(name, data)
    for found in parsed.issues:
        assert found.message
        assert found.remedy
        found.message.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["video", "caption", "question", "answer", "messages", "role", "content", "type", "text", "path", "fps", "split",
     "sample_id", "start", "end", "max_frames", "conversations", "from", "value", "videos", "query", "response",
     "history", "instruction", "input", "output", "system", "schemaVersion", "source", "s3Location", "uri",
     "contents", "parts", "systemInstruction", "fileData", "mimeType", "fileUri", "videoMetadata", "startOffset",
     "image", "video_url", "tags", "category"]
)  # fmt: skip
NEARLY_JSON = JSON | st.sampled_from(
    ["user", "human", "gpt", "assistant", "model", "a.mp4", "<video>", "video", "text", "1s"]
)
PARTS = st.lists(st.dictionaries(KEYS, NEARLY_JSON, max_size=4), max_size=3)
TURNS = st.lists(st.dictionaries(KEYS, NEARLY_JSON | PARTS, max_size=4), max_size=3)
ROWS = st.dictionaries(KEYS, NEARLY_JSON | PARTS | TURNS, max_size=6)
FORMAT_KEYS = st.sampled_from(
    [{"conversations"}, {"conversations", "video"}, {"messages", "videos"}, {"messages", "schemaVersion"}, {"contents"},
     {"query", "response"}, {"instruction", "history"}, {"video", "caption"}]
)  # fmt: skip
LIKELY_ROWS = FORMAT_KEYS.flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, NEARLY_JSON | TURNS)))


@settings(max_examples=300, deadline=None)
@given(st.lists(ROWS | LIKELY_ROWS, max_size=5))
def test_no_rows_make_the_parser_raise_and_sound_ones_can_be_kept(rows: list[dict[str, Any]]) -> None:
    data = "\n".join(json.dumps(row) for row in rows).encode()
    parsed = parse("annotations.jsonl", data)
    for row in parsed.rows:
        text = canonical_json(messages_to_json(row.sample.messages))
        assert messages_from_json(json.loads(text.encode())) == row.sample.messages
        assert "\0" not in text
        assert "\\u0000" not in text


INFO_ENTRIES = st.dictionaries(
    st.sampled_from(["file_name", "formatting", "columns", "tags", "media_root"]),
    JSON | st.sampled_from(["a.json", "sharegpt", "alpaca"]),
    max_size=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), INFO_ENTRIES, max_size=2))
def test_no_side_file_makes_its_parser_raise(value: Any) -> None:
    found = parse_dataset_info(json.dumps(value).encode(), {"a.json"})
    if isinstance(found, DatasetInfo):
        parse("a.json", b'[{"conversations": [], "instruction": ""}]', found)


def test_the_same_rows_get_the_same_ids_wherever_they_stand() -> None:
    row = b'{"video": "a.mp4", "caption": "A bar."}\n'
    other = b'{"video": "b.mp4", "caption": "A bar."}\n'
    alone = parse("a.jsonl", row).rows[0].sample.sample_id
    twice = [found.sample.sample_id for found in parse("a.jsonl", other + row + row).rows]
    assert twice[1] == alone
    assert len(set(twice)) == 3


def test_semicolons_and_tabs_separate_too() -> None:
    for data in (b"Video;Caption\na.mp4;x, y\n", b"video\tcaption\na.mp4\tx, y\n"):
        (row,) = parse("a.csv", data).rows
        assert row.sample.messages[1].content == (TextPart("x, y"),)


def message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


VIDEO = {"type": "video", "path": "a.mp4"}
WORDS = {"type": "text", "text": "words"}


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        ({"messages": []}, "ROW_INVALID", "messages"),
        ({"messages": [message("user", VIDEO, WORDS)]}, "ROLE_ORDER", "messages[0].role"),
        ({"messages": [message("human", VIDEO), message("gpt", WORDS)]}, "ROLE_UNKNOWN", "messages[0].role"),
        ({"messages": [message("assistant", WORDS)]}, "ROLE_ORDER", "messages[0].role"),
        ({"messages": [message("user", WORDS), message("assistant", WORDS)]}, "CLIP_NOT_NAMED", "messages[0].content"),
        (
            {"messages": [message("user", VIDEO), message("assistant", {"type": "text", "text": " "})]},
            "ANSWER_EMPTY",
            "messages[1].content",
        ),
        (
            {"messages": [message("user", WORDS), message("assistant", WORDS, VIDEO)]},
            "ROW_INVALID",
            "messages[1].content",
        ),
        (
            {"messages": [message("user", {"type": "image", "path": "a.png"}), message("assistant", WORDS)]},
            "ROW_INVALID",
            "messages[0].content[0]",
        ),
        (
            {"messages": [message("user", {"type": "video"}), message("assistant", WORDS)]},
            "ROW_INVALID",
            "messages[0].content[0]",
        ),
        (
            {"messages": [message("user", {**VIDEO, "fps": -1}), message("assistant", WORDS)]},
            "ROW_INVALID",
            "messages[0].content[0].fps",
        ),
        (
            {"messages": [message("user", {**VIDEO, "start": 3, "end": 2}), message("assistant", WORDS)]},
            "ROW_INVALID",
            "messages[0].content[0].end",
        ),
        ({"video": "https://example.org/a.mp4", "caption": "x"}, "CLIP_REMOTE", "video"),
        ({"video": "a.mp4", "question": "Q", "answer": ""}, "ANSWER_EMPTY", "answer"),
        ({"video": "a.mp4", "question": "", "answer": "A"}, "QUESTION_EMPTY", "question"),
        ({"video": "a.mp4", "caption": "a <video> tag"}, "TAG_IN_TEXT", "caption"),
        ({"video": "a.mp4", "caption": "nul \0"}, "ROW_INVALID", "caption"),
        ({"video": "a.mp4", "caption": "lone \ud800"}, "ROW_INVALID", "caption"),
        ({"video": "a.mp4", "caption": "x", "split": "a b"}, "ROW_INVALID", "split"),
        ({"video": "a.mp4", "caption": "x", "sample_id": ["x"]}, "ROW_INVALID", "sample_id"),
        ({"video": "../a.mp4", "caption": "x"}, "CLIP_PATH_INVALID", "video"),
        ({"video": 3, "caption": "x"}, "CLIP_PATH_INVALID", "video"),
        ({"conversations": []}, "ROW_INVALID", "conversations"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_by_field(value: Any, reason: str, field: str) -> None:
    found = only_issue(parse_value(value))
    assert (found.reason, found.row, found.field) == (reason, 1, field)


def test_a_sample_id_may_come_once() -> None:
    row = b'{"video": "a.mp4", "caption": "x", "sample_id": "1"}\n'
    parsed = parse("a.jsonl", row + row)
    assert [found.reason for found in parsed.issues] == ["SAMPLE_ID_TWICE"]


def test_a_made_id_is_never_one_that_a_row_gave_itself() -> None:
    row = {"video": "a.mp4", "caption": "x"}
    made = parse_value(row).rows[0].sample.sample_id
    parsed = parse_value({**row, "caption": "y", "sample_id": made}, row, row, row)
    ids = [found.sample.sample_id for found in parsed.rows]
    assert ids == [made, f"{made}:2", f"{made}:3", f"{made}:4"]


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    row = b'{"video": "a.mp4", "caption": "x"}\n'
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    assert parse("a.jsonl", row * 4).issues[0].reason == "TOO_MANY_ROWS"
    assert parse("a.json", b"[" + b",".join([row] * 4) + b"]").issues[0].reason == "TOO_MANY_ROWS"
    assert only_issue(parse("a.csv", b"a," * 100 + b"a\n")).reason == "HEADER_INVALID"
    assert only_issue(parse("a.csv", b"a,a\n")).reason == "HEADER_INVALID"
    monkeypatch.setattr(text_lines, "MAX_LINES", 3)
    assert only_issue(parse("a.jsonl", b"\n" * 4 + row)).reason == "TOO_MANY_ROWS"


@pytest.mark.parametrize("size", [600_000, 3_000_000])
def test_a_row_of_any_length_is_one_bad_row(size: int) -> None:
    """In lines the others are still read; an array ends there."""
    long = b'{"video": "a.mp4", "caption": "' + b"x" * size + b'"}'
    good = b'{"video": "a.mp4", "caption": "x"}'
    lines = parse("a.jsonl", good + b"\n" + long + b"\n" + good)
    assert [row.number for row in lines.rows] == [1, 3]
    assert [(found.reason, found.row) for found in lines.issues] == [("ROW_TOO_LONG", 2)]
    table = parse("a.csv", b"video,caption\na.mp4,x\na.mp4," + b"x" * size + b"\na.mp4,x\n")
    assert table.issues[0].row == 2
    array = parse("a.json", b"[" + good + b"," + long + b"," + good + b"]")
    assert [row.number for row in array.rows] == [1]
    assert [(found.reason, found.row) for found in array.issues] == [("ROW_TOO_LONG", 2)]


@pytest.mark.parametrize(
    "data", [b'{"a":' * 5000, b"[" + b'{"a":' * 5000, b"[[" * 5000, b'[{"video": NaN}]', b"[1" * 9, b"[" + b"9" * 9000]
)
def test_deep_and_broken_json_is_an_issue(data: bytes) -> None:
    assert parse("a.json", data).issues


@pytest.mark.parametrize("depth", [json_records.MAX_DEPTH + 1, 200, 3000])
def test_deep_rows_are_told_by_row(depth: int) -> None:
    deep = b'{"video": "a.mp4", "caption": "x", "more": ' + b"[" * depth + b"]" * depth + b"}"
    shallow = deep.replace(b"[" * depth, b'"' + b"[" * depth).replace(b"]" * depth, b"]" * depth + b'"')
    for parsed in (parse("a.jsonl", deep + b"\n" + shallow), parse("a.json", b"[" + shallow + b"," + deep + b"]")):
        assert len(parsed.rows) == 1
        assert [found.reason for found in parsed.issues] == ["ROW_TOO_DEEP"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("file", ["a.csv", "a.json"])
def test_utf_16_is_told_with_or_without_its_mark(file: str, encoding: str) -> None:
    text = "video,caption\na.mp4,x\n" if file == "a.csv" else '[{"video": "a.mp4", "caption": "x"}]'
    assert only_issue(parse(file, text.encode(encoding))).reason == "ENCODING_INVALID"


def test_one_row_that_is_not_utf_8_does_not_hide_the_others() -> None:
    good, bad = b'{"video": "a.mp4", "caption": "x"}', b'{"video": "a.mp4", "caption": "\xe4"}'
    files = {
        "a.jsonl": b"\n".join([good, bad, good]),
        "a.json": b"[" + b",\n".join([good, bad, good]) + b"]",
        "a.csv": b"video,caption\na.mp4,x\na.mp4,\xe4\na.mp4,x\n",
    }
    for file, data in files.items():
        parsed = parse(file, data)
        assert [row.number for row in parsed.rows] == [1, 3]
        assert [(found.reason, found.row) for found in parsed.issues] == [("ENCODING_INVALID", 2)]


def test_wrong_quotes_are_told_by_row_and_the_rows_after_them_are_read() -> None:
    parsed = parse("a.csv", b'video,caption\na.mp4,"x" y\na.mp4,"x, ""y"""\na.mp4,x,y\na.mp4,x\n')
    assert [row.number for row in parsed.rows] == [2, 4]
    assert [(found.reason, found.row) for found in parsed.issues] == [("ROW_INVALID", 1), ("ROW_INVALID", 3)]
    swallowed = parse("a.csv", b'video,caption\na.mp4,x\na.mp4,"x\n' + b"a.mp4,y\n" * 40_000)
    assert len(swallowed.rows) == 1
    assert [(found.reason, found.row) for found in swallowed.issues] == [("ROW_INVALID", 2)]
    assert only_issue(parse("a.csv", b'video,caption\na.mp4,"x\n')).row == 1
    assert only_issue(parse("a.csv", b'"video,caption\na.mp4,x\n')).reason == "ROW_INVALID"


def test_arrays_are_read_across_every_border_of_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"video": f"{number}.mp4", "caption": f"ü\u2028\U0001f3a5 {number}", "more": [1.5, -2e9, None]}
        for number in range(5)
    ]
    data = json.dumps(rows, ensure_ascii=False, indent=1).encode()
    whole = [row.sample for row in parse("a.json", data).rows]
    assert len(whole) == 5
    for size in range(1, 60):
        monkeypatch.setattr(json_records, "_CHUNK_BYTES", size)
        parsed = parse("a.json", data)
        assert parsed.issues == []
        assert [row.sample for row in parsed.rows] == whole
        broken = parse("a.json", data[:-3] + b"x}]")
        assert len(broken.rows) == 4
        assert f"line {data.count(10)} " in broken.issues[0].message
        assert only_issue(parse("a.json", b"[12345]")).message.startswith("the row is a JSON number")


def test_the_place_where_an_array_breaks_is_told() -> None:
    parsed = parse("a.json", b'[\n{"video": "a.mp4", "caption": "x"},\n\n{"video" "a.mp4"}\n]')
    (found,) = parsed.issues
    assert (found.row, len(parsed.rows)) == (2, 1)
    assert "line 4" in found.message
    for data in (b"[{},{}", b"[", b"[{},]", b"[] {}", b'[{"a": 1}\n{"b": 2}]'):
        assert parse("a.json", data).issues


def test_a_stored_row_is_the_canonical_text_of_the_whole_sample() -> None:
    (row,) = parse_value({"video": "a.mp4", "caption": 'ü "x" \n', "sample_id": 'ä"\\'}).rows
    whole = {
        "sample_id": row.sample.sample_id,
        "split": row.sample.split,
        "messages": messages_to_json(row.sample.messages),
    }
    assert row.text.row_text() == canonical_json(whole)


BRACKETS = {"a.json": ("[", ",\n", "]"), "a.jsonl": ("", "\n", ""), "a.csv": ("video,caption\n", "\n", "")}


@pytest.mark.parametrize("file", BRACKETS)
def test_memory_does_not_grow_with_the_file(file: str, tmp_path: Path) -> None:
    caption = "x" * 2000
    row = f"a.mp4,{caption}" if file == "a.csv" else json.dumps({"video": "a.mp4", "caption": caption})
    begin, separator, end = BRACKETS[file]
    path = tmp_path / file
    path.write_text(begin + separator.join([row] * 4000) + end)
    with path.open("rb") as stream:
        tracemalloc.start()
        count = sum(1 for _ in records.read_records(file, stream))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 4000
    assert peak < path.stat().st_size / 8


TWENTY = [f"t{number}" for number in range(20)]


@pytest.mark.parametrize(
    ("given_tags", "expected"),
    [
        ({}, ()),
        ({"tags": None, "category": ""}, ()),
        ({"tags": ["sport", " two words ", "sport"]}, ("sport", "two words")),
        ({"tags": "b; a,c ;;"}, ("b", "a", "c")),
        ({"tags": ["a;b", 7], "category": "c"}, ("a", "b", "7", "c")),
        ({"category": 3}, ("3",)),
        ({"tags": TWENTY[:16]}, tuple(TWENTY[:16])),
        ({"tags": "x" * 64}, ("x" * 64,)),
    ],
)
def test_a_row_may_have_tags(given_tags: dict[str, Any], expected: tuple[str, ...]) -> None:
    parsed = parse_value({"video": "a.mp4", "caption": "A bar.", **given_tags})
    assert parsed.issues == []
    (row,) = parsed.rows
    assert row.sample.tags == row.text.tags == expected


def test_the_id_of_a_row_does_not_depend_on_its_tags_and_its_text_does() -> None:
    plain, tagged = parse_value(
        *({"video": "a.mp4", "caption": "A bar."} | more for more in ({}, {"tags": "b;a"}))
    ).rows
    assert tagged.sample.sample_id == f"{plain.sample.sample_id}:2"
    assert "tags" not in plain.text.row_text()
    assert json.loads(tagged.text.row_text())["tags"] == ["b", "a"]


@pytest.mark.parametrize(
    "tags",
    [TWENTY, "x" * 65, "a\nb", "a\u2028b", "\x00", [["a"]], {"a": 1}, True, 1.5, ["a", None, False]],
    ids=repr,
)
def test_what_is_no_tag_is_refused_by_field(tags: Any) -> None:
    found = only_issue(parse_value({"video": "a.mp4", "caption": "A bar.", "tags": tags}))
    assert (found.reason, found.row, found.field) == ("TAGS_INVALID", 1, "tags")
    assert "64" in found.remedy


@pytest.mark.parametrize(
    "category",
    [{"a": 1}, 1.5, True, "a, b, " + "x" * 65, [f"u{number}" for number in range(20)], [["a"], None]],
    ids=repr,
)
def test_a_category_that_is_no_tag_makes_one_warning_and_keeps_every_row(category: Any) -> None:
    row = {"video": "a.mp4", "caption": "A bar.", "tags": "own"}
    parsed = parse_value(row, row | {"category": category}, row | {"category": [category, "c"]})
    assert len(parsed.rows) == 3
    assert parsed.rows[0].sample.tags == ("own",)
    assert all("own" in row.sample.tags and len(row.sample.tags) <= 16 for row in parsed.rows)
    (found,) = parsed.issues
    assert (found.severity, found.reason, found.field) == (Severity.WARNING, "CATEGORY_IGNORED", "category")
    assert found.message.startswith("2 rows ")
    assert "row 2" in found.message
