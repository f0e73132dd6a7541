"""Annotation files: what people write, what goes wrong in them, and what chance makes of them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog_svc.domain import records
from catalog_svc.domain.annotations import Annotations, find_annotation_file, parse_annotations
from catalog_svc.domain.columns_format import CAPTION_PROMPT
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.sample import (
    AnnotationFormat,
    TextPart,
    VideoPart,
    canonical_json,
    messages_from_json,
    messages_to_json,
)

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<"), min_size=1, max_size=40).filter(
    lambda text: text == text.strip() and text != ""
)
PATH_PART = st.text("abcdefghijklmnopqrstuvwxyzäöü0123456789_-", min_size=1, max_size=8)
PATH = st.lists(PATH_PART, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".mp4")


def only_issue(parsed: Annotations) -> Issue:
    assert not parsed.rows
    (found,) = parsed.issues
    return found


def one_row(value: Any) -> Annotations:
    return parse_annotations("annotations.jsonl", json.dumps(value).encode())


@given(st.lists(st.tuples(PATH, TEXT, TEXT), min_size=1, max_size=8))
def test_questions_and_answers_come_through_csv_json_and_json_lines_alike(rows: list[tuple[str, str, str]]) -> None:
    target = io.StringIO()
    csv.writer(target).writerows([("video", "question", "answer"), *rows])
    values = [{"video": video, "question": question, "answer": answer} for video, question, answer in rows]
    lines = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    parsed = [
        parse_annotations("annotations.csv", target.getvalue().encode()),
        parse_annotations("annotations.csv", b"\xef\xbb\xbf" + target.getvalue().encode()),
        parse_annotations("annotations.json", json.dumps(values, indent=2).encode()),
        parse_annotations("annotations.jsonl", lines.encode()),
        parse_annotations("annotations.json", b"\n\n" + lines.encode() + b"\n"),
    ]
    for found in parsed:
        assert found.issues == ()
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
    parsed = parse_annotations(name, data)
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
     "sample_id", "start", "end", "max_frames"]
)  # fmt: skip
ROWS = st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=4), max_size=3), max_size=6)


@settings(max_examples=300)
@given(st.lists(ROWS, max_size=5))
def test_no_rows_make_the_parser_raise_and_sound_ones_can_be_kept(rows: list[dict[str, Any]]) -> None:
    data = "\n".join(json.dumps(row) for row in rows).encode()
    parsed = parse_annotations("annotations.jsonl", data)
    for row in parsed.rows:
        text = canonical_json(messages_to_json(row.sample.messages))
        assert messages_from_json(json.loads(text.encode())) == row.sample.messages
        assert "\0" not in text
        assert "\\u0000" not in text


def test_the_same_rows_get_the_same_ids_wherever_they_stand() -> None:
    row = b'{"video": "a.mp4", "caption": "A bar."}\n'
    other = b'{"video": "b.mp4", "caption": "A bar."}\n'
    alone = parse_annotations("a.jsonl", row).rows[0].sample.sample_id
    twice = [found.sample.sample_id for found in parse_annotations("a.jsonl", other + row + row).rows]
    assert twice[1] == alone
    assert len(set(twice)) == 3


def test_a_caption_answers_a_question() -> None:
    (row,) = one_row({"video": "a.mp4", "caption": "A bar."}).rows
    assert row.sample.messages[0].content[1] == TextPart(CAPTION_PROMPT)


def test_semicolons_and_tabs_separate_too() -> None:
    for data in (b"Video;Caption\na.mp4;x, y\n", b"video\tcaption\na.mp4\tx, y\n"):
        (row,) = parse_annotations("a.csv", data).rows
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
        ({"messages": [message("user", WORDS), message("assistant", WORDS)]}, "ROW_INVALID", "messages"),
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
        ({"video": "../a.mp4", "caption": "x"}, "ROW_INVALID", "video"),
        ({"video": 3, "caption": "x"}, "ROW_INVALID", "video"),
        ({"conversations": []}, "ROW_INVALID", ""),
    ],
)
def test_what_is_wrong_with_a_row_is_told_by_field(value: Any, reason: str, field: str) -> None:
    found = only_issue(one_row(value))
    assert (found.reason, found.row, found.field) == (reason, 1, field)


def test_a_sample_id_may_come_once() -> None:
    row = b'{"video": "a.mp4", "caption": "x", "sample_id": "1"}\n'
    parsed = parse_annotations("a.jsonl", row + row)
    assert [found.reason for found in parsed.issues] == ["SAMPLE_ID_TWICE"]


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    row = b'{"video": "a.mp4", "caption": "x"}\n'
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    assert parse_annotations("a.jsonl", row * 4).issues[0].reason == "TOO_MANY_ROWS"
    monkeypatch.setattr(records, "MAX_RECORD_CHARACTERS", 20)
    assert only_issue(parse_annotations("a.jsonl", row)).reason == "ROW_TOO_LONG"
    monkeypatch.setattr(records, "MAX_FILE_BYTES", 20)
    assert only_issue(parse_annotations("a.jsonl", row)).reason == "ANNOTATIONS_TOO_LARGE"
    assert only_issue(parse_annotations("a.csv", b"a," * 5 + b"a\n")).reason == "HEADER_INVALID"


@pytest.mark.parametrize(
    "data", [b'{"a":' * 5000, b"[" + b'{"a":' * 5000, b"[[" * 5000, b'[{"video": NaN}]', b"[1" * 9]
)
def test_deep_and_broken_json_is_an_issue(data: bytes) -> None:
    assert parse_annotations("a.json", data).issues


def test_the_annotation_file_is_found_by_name_or_by_being_alone() -> None:
    assert find_annotation_file(["annotations.jsonl", "other.json", "a.mp4"]) == "annotations.jsonl"
    assert find_annotation_file(["rows.csv", "sub/other.csv", "a.mp4"]) == "rows.csv"
    for paths, reason in (
        (["a.mp4"], "ANNOTATIONS_MISSING"),
        (["a.csv", "b.json"], "ANNOTATIONS_AMBIGUOUS"),
        (["annotations.csv", "annotations.json"], "ANNOTATIONS_AMBIGUOUS"),
    ):
        found = find_annotation_file(paths)
        assert isinstance(found, Issue)
        assert found.reason == reason
