"""Each format of annotation files: what is read from a row as other trainers take it, and told of a wrong one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from catalog_svc.domain.annotations import AnnotationPlan, AnnotationReader, Row, plan_annotations
from catalog_svc.domain.dataset_info import DatasetInfo, parse_dataset_info
from catalog_svc.domain.formats.columns import CAPTION_PROMPT
from catalog_svc.domain.formats.table import FORMATS
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.sample import AnnotationFormat, Message, VideoPart
from tests.unit.catalog.annotation_texts import (
    assistant,
    info,
    only_issue,
    only_messages,
    parse,
    parse_value,
    said,
    system,
    user,
)

CHAT = said("<video>Q", "A")
MESSAGES = said("<video>Q", "A", names=("user", "assistant"), keys=("role", "content"))
PARTS_ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "A"}]}
NOVA = {"schemaVersion": "bedrock-conversation-2024"}
NOVA_VIDEO = {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/clips/v.mp4"}}}}
MODEL_ANSWER = {"role": "model", "parts": [{"text": "A"}]}


def parts_row(**video: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": [{"type": "video", **video}, {"type": "text", "text": "Q"}]},
            PARTS_ANSWER,
        ]
    }


def nova_row(part: Mapping[str, Any] = NOVA_VIDEO, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": [part, {"text": "Q"}]}, {"role": "assistant", "content": [{"text": "A"}]}]
    return {**NOVA, "messages": turns, **more}


def gemini_row(part: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [part, {"text": "Q"}]}, MODEL_ANSWER], **more}


FILE_DATA = {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"}}
IMAGE_DATA = {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/v.png"}}
BAD_OFFSET = {**FILE_DATA, "videoMetadata": {"startOffset": "1m"}}
NOVA_PART, GEMINI_PART = "messages[0].content[0]", "contents[0].parts[0]"
QA = (user("a.mp4", "Q"), assistant("A"))


@pytest.mark.parametrize(
    ("row", "format_", "messages"),
    [
        ({"conversations": CHAT, "videos": ["a.mp4"]}, "SHAREGPT", QA),
        ({"conversations": CHAT, "videos": "a.mp4", "system": "S"}, "SHAREGPT", (system("S"), *QA)),
        (
            {"conversations": [{"from": "system", "value": "S"}, *CHAT], "videos": ["a.mp4"]},
            "SHAREGPT",
            (system("S"), *QA),
        ),
        (
            {"conversations": said("a <video> b <video>", "A", "<video>", "B"), "videos": ["a.mp4", "b.mp4", "a.mp4"]},
            "SHAREGPT",
            (user("a", "a.mp4", "b", "b.mp4"), assistant("A"), user("a.mp4"), assistant("B")),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "<video>Q"},
                    {"from": "function_call", "value": "find()"},
                    {"from": "observation", "value": "found"},
                    {"from": "gpt", "value": "A"},
                ],
                "videos": ["a.mp4"],
            },
            "SHAREGPT",
            (user("a.mp4", "Q"), assistant("find()"), user("found"), assistant("A")),
        ),
        ({"messages": MESSAGES, "videos": ["a.mp4"]}, "OPENAI_MESSAGES", QA),
        (
            {"messages": [{"role": "system", "content": "S"}, *MESSAGES], "videos": ["a.mp4"]},
            "OPENAI_MESSAGES",
            (system("S"), *QA),
        ),
        ({"query": "<video>Q", "response": "A", "videos": ["a.mp4"]}, "MS_SWIFT", QA),
        ({"query": "Q", "response": "A", "videos": ["a.mp4"], "images": []}, "MS_SWIFT", QA),
        (
            {"query": "Q", "response": "A", "history": [["<video>Q0", "A0"]], "videos": ["a.mp4"], "system": "S"},
            "MS_SWIFT",
            (system("S"), user("a.mp4", "Q0"), assistant("A0"), user("Q"), assistant("A")),
        ),
        (
            {"query": "Q", "response": "A", "history": [["Q0", "A0"]], "videos": ["a.mp4", "b.mp4"]},
            "MS_SWIFT",
            (user("a.mp4", "b.mp4", "Q0"), assistant("A0"), user("Q"), assistant("A")),
        ),
        (
            {"instruction": "Look.", "input": "<video>Q", "output": "A", "videos": ["a.mp4"]},
            "MS_SWIFT",
            (user("Look.", "a.mp4", "Q"), assistant("A")),
        ),
        ({"instruction": "Q", "input": "", "output": "A", "videos": ["a.mp4"]}, "MS_SWIFT", QA),
        ({"id": "1", "video": "a.mp4", "conversations": said("<video>\nQ", "A")}, "LLAVA", QA),
        ({"video": "a.mp4", "conversations": said("<image>\nQ", "A")}, "LLAVA", QA),
        (
            {"video": ["a.mp4", "b.mp4"], "conversations": said("<video><video>Q", "A")},
            "LLAVA",
            (user("a.mp4", "b.mp4", "Q"), assistant("A")),
        ),
        (parts_row(path="a.mp4"), "CONTENT_PARTS", QA),
        (parts_row(url="./a.mp4"), "CONTENT_PARTS", QA),
        (parts_row(video_url={"url": "a.mp4"}), "CONTENT_PARTS", QA),
        (
            parts_row(video="a.mp4", fps=2, nframes=8, max_pixels=50_176),
            "CONTENT_PARTS",
            (user(VideoPart("a.mp4", fps=2.0, max_frames=8, max_pixels=50_176), "Q"), assistant("A")),
        ),
        (
            parts_row(path="a.mp4", start=1.5, end=4, max_frames=16),
            "CONTENT_PARTS",
            (user(VideoPart("a.mp4", 1.5, 4.0, max_frames=16), "Q"), assistant("A")),
        ),
        (nova_row(system=[{"text": "S"}]), "NOVA", (system("S"), user("clips/v.mp4", "Q"), assistant("A"))),
        (
            gemini_row(
                {**FILE_DATA, "videoMetadata": {"startOffset": "1.5s", "endOffset": "4s", "fps": 2}},
                systemInstruction={"parts": [{"text": "S"}]},
            ),
            "GEMINI",
            (system("S"), user(VideoPart("v.mp4", 1.5, 4.0, 2.0), "Q"), assistant("A")),
        ),
        (
            gemini_row({"file_data": {"file_uri": "gs://b/v.mp4"}, "video_metadata": {"end_offset": "4s"}}),
            "GEMINI",
            (user(VideoPart("v.mp4", end_seconds=4.0), "Q"), assistant("A")),
        ),
        ({"video": "a.mp4", "question": "Q", "answer": "A"}, "COLUMNS", QA),
        ({"video": "a.mp4", "caption": "A"}, "COLUMNS", (user("a.mp4", CAPTION_PROMPT), assistant("A"))),
    ],
)  # fmt: skip
def test_a_row_is_known_by_its_content(row: Any, format_: str, messages: tuple[Message, ...]) -> None:
    parsed = parse_value(row)
    assert only_messages(parsed) == messages
    assert parsed.format is AnnotationFormat(format_)
    assert parsed.row_count == 1


def test_every_format_but_the_folder_of_texts_stands_in_the_table() -> None:
    names = [known.name for known in FORMATS]
    assert sorted([*names, AnnotationFormat.TEXT_FILES]) == sorted(AnnotationFormat)


@pytest.mark.parametrize(
    ("row", "reason", "field", "hint"),
    [
        ({"conversations": CHAT, "videos": []}, "TAG_COUNT", "videos", "name 1 more in videos"),
        ({"conversations": CHAT}, "TAG_COUNT", "videos", "name 1 more"),
        ({"conversations": CHAT, "videos": ["a.mp4", "b.mp4"]}, "TAG_COUNT", "videos", "<video> in a question"),
        ({"conversations": said("Q", "A"), "videos": ["a.mp4"]}, "TAG_COUNT", "videos", "<video> in a question"),
        ({"messages": MESSAGES}, "TAG_COUNT", "videos", "name 1 more"),
        ({"query": "<video>Q", "response": "A"}, "TAG_COUNT", "videos", "name 1 more"),
        ({"video": "a.mp4", "conversations": said("Q", "A")}, "TAG_COUNT", "video", "<video> in a question"),
        ({"query": "Q", "response": "A"}, "CLIP_NOT_NAMED", "query", "show one in the first question"),
        (
            {"conversations": said("Q", "<video>A"), "videos": ["a.mp4"]},
            "TAG_IN_TEXT",
            "conversations[1].value",
            "move the tag to the question",
        ),
        (
            {"query": "<video>Q", "response": "A<video>", "videos": ["a.mp4"]},
            "TAG_IN_TEXT",
            "response",
            "move the tag",
        ),
        (
            {"conversations": said("<video>Q", "A", names=("user", "gpt")), "videos": ["a.mp4"]},
            "ROLE_UNKNOWN",
            "conversations[0].from",
            'write human, or map it in dataset_info.json: "tags": {"user_tag": "user"}',
        ),
        (
            {"messages": said("<video>Q", "A", names=("user", "gpt"), keys=("role", "content")), "videos": ["a.mp4"]},
            "ROLE_UNKNOWN",
            "messages[1].role",
            'write assistant, or map it in dataset_info.json: "tags": {"assistant_tag": "gpt"}',
        ),
        (
            {"conversations": said("<video>Q", "A", names=("human", "sage")), "videos": ["a.mp4"]},
            "ROLE_UNKNOWN",
            "conversations[1].from",
            "use human, gpt, system",
        ),
        (
            {"conversations": said("<video>Q", " "), "videos": ["a.mp4"]},
            "ANSWER_EMPTY",
            "conversations[1].value",
            "write the answer",
        ),
        ({"conversations": said(" ", "A"), "videos": []}, "QUESTION_EMPTY", "conversations[0].value", "write"),
        ({"query": "<video>Q", "response": "", "videos": ["a.mp4"]}, "ANSWER_EMPTY", "response", "write the answer"),
        ({"instruction": "", "output": "A", "videos": []}, "QUESTION_EMPTY", "instruction", "write the question"),
        ({"query": "Q", "response": 3, "videos": ["a.mp4"]}, "ROW_INVALID", "response", "give a text"),
        ({"query": "Q", "response": "A", "history": [["x"]]}, "ROW_INVALID", "history[0]", "answer"),
        ({"conversations": CHAT[:1], "videos": ["a.mp4"]}, "ROLE_ORDER", "conversations[0].from", "end the row"),
        ({"conversations": [*CHAT, CHAT[1]], "videos": ["a.mp4"]}, "ROLE_ORDER", "conversations[2].from", "in turn"),
        ({"conversations": ["Q"], "videos": ["a.mp4"]}, "ROW_INVALID", "conversations[0]", "from"),
        ({"conversations": CHAT, "videos": ["a.mp4"], "images": ["b.png"]}, "MEDIA_UNSUPPORTED", "images", "remove"),
        ({"video": "a.jpg", "conversations": CHAT}, "MEDIA_UNSUPPORTED", "video", "remove the row"),
        ({"image": "a.jpg", "conversations": CHAT}, "MEDIA_UNSUPPORTED", "image", "remove the row"),
        ({"conversations": CHAT, "videos": [["1.png"]]}, "CLIP_PATH_INVALID", "videos[0]", "uploaded as"),
        ({"conversations": CHAT, "videos": ["../a.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", "uploaded as"),
        ({"conversations": CHAT, "videos": ["/data/a.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", '"media_root": "/data"'),
        ({"conversations": CHAT, "videos": ["C:\\d\\a.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", '"media_root": "C:/d"'),
        ({"conversations": CHAT, "videos": ["a\u202e4pm.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", "uploaded as"),
        ({"conversations": CHAT, "videos": ["a\0.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", "uploaded as"),
        ({"conversations": CHAT, "videos": ["a/" * 2048 + "a.mp4"]}, "CLIP_PATH_INVALID", "videos[0]", "uploaded as"),
        ({"conversations": CHAT, "videos": ["https://x.org/a.mp4"]}, "CLIP_REMOTE", "videos[0]", "upload the clip"),
        (nova_row({"image": {}}), "MEDIA_UNSUPPORTED", NOVA_PART, "use"),
        (nova_row({"video": {}}), "CLIP_PATH_INVALID", f"{NOVA_PART}.video.source.s3Location.uri", "uploaded"),
        (gemini_row(IMAGE_DATA), "MEDIA_UNSUPPORTED", f"{GEMINI_PART}.fileData.mimeType", "clip"),
        (gemini_row(BAD_OFFSET), "ROW_INVALID", f"{GEMINI_PART}.videoMetadata.startOffset", "1.5s"),
        (gemini_row({"inlineData": {}}), "ROW_INVALID", GEMINI_PART, "fileData"),
        ({"prompt": "Q", "completion": "A"}, "FORMAT_UNKNOWN", "", "video and caption"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_told_by_field_with_what_would_mend_it(
    row: Any, reason: str, field: str, hint: str
) -> None:
    found = only_issue(parse_value(row))
    assert (found.reason, found.row, found.field) == (reason, 1, field), found
    assert hint in found.remedy


def test_rows_of_a_packed_list_are_rows_of_their_own() -> None:
    good, bad = {"video": "a.mp4", "conversations": CHAT}, {"video": "b.mp4", "conversations": said("<video>Q", "")}
    for parsed in (parse_value([good, bad], [good]), parse("a.json", b"[" + parse_text([[good, bad], [good]]) + b"]")):
        assert [row.number for row in parsed.rows] == [1, 2]
        assert parsed.row_count == 3
        (found,) = parsed.issues
        assert (found.row, found.field) == (1, "[1].conversations[1].value")


def parse_text(values: list[Any]) -> bytes:
    return ",\n".join(json.dumps(value) for value in values).encode()


def test_rows_of_two_formats_in_one_file_are_told() -> None:
    parsed = parse_value({"video": "a.mp4", "caption": "A"}, {"conversations": CHAT, "videos": ["a.mp4"]})
    assert [row.number for row in parsed.rows] == [1]
    (found,) = parsed.issues
    assert (found.reason, found.row) == ("FORMAT_UNKNOWN", 2)
    assert "video and caption" in found.remedy


def test_the_side_file_maps_columns_speakers_and_roots() -> None:
    rows = {"turns": said("<video>Q", "A", names=("Q", "A"), keys=("who", "says")), "clips": ["a.mp4"]}
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A"}
    columns = {"messages": "turns", "videos": "clips"}
    mapped = info(formatting="sharegpt", columns=columns, tags=tags, media_root="media")
    parsed = parse_value(rows, info=mapped)
    assert only_messages(parsed) == (user("media/a.mp4", "Q"), assistant("A"))
    assert parsed.format is AnnotationFormat.SHAREGPT
    found = only_issue(parse_value({**rows, "turns": rows["turns"][:1]}, info=mapped))
    assert found.field == "turns[0].who"


def test_of_a_side_file_with_many_entries_the_one_that_names_a_file_here_counts() -> None:
    entries = {
        "hub": {"hf_hub_url": "a/b"},
        "other": {"file_name": "other.json"},
        "mine": {"file_name": "annotations.jsonl", "media_root": "media"},
        "bare": {"media_root": "bare"},
    }
    found = parse_dataset_info(json.dumps(entries).encode(), {"annotations.jsonl", "a.mp4"})
    assert isinstance(found, DatasetInfo)
    assert (found.file_name, found.media_root.root) == ("annotations.jsonl", "media")
    alone = parse_dataset_info(json.dumps(entries).encode(), {"rows.csv"})
    assert isinstance(alone, DatasetInfo)
    assert (alone.file_name, alone.media_root.root) == (None, "bare")


def test_the_side_file_maps_questions_and_answers() -> None:
    mapped = info(columns={"prompt": "ask", "response": "say", "videos": "clips"})
    parsed = parse_value({"ask": "Q", "say": "A", "clips": ["a.mp4"]}, info=mapped)
    assert only_messages(parsed) == QA
    assert parsed.format is AnnotationFormat.MS_SWIFT


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("media", "a.mp4", "media/a.mp4"),
        ("media/", "./a.mp4", "media/a.mp4"),
        ("/data/videos", "/data/videos/a.mp4", "a.mp4"),
        ("s3://b/videos", "s3://b/videos/a.mp4", "a.mp4"),
        ("https://x.org/v/", "https://x.org/v/a.mp4", "a.mp4"),
    ],
)
def test_a_media_root_is_put_in_front_or_taken_off(root: str, path: str, expected: str) -> None:
    parsed = parse_value({"video": path, "caption": "A"}, info=info(media_root=root))
    assert only_messages(parsed)[0].content[0] == VideoPart(expected)


def test_no_media_root_leads_out_of_the_dataset() -> None:
    for root, path in (("../..", "a.mp4"), ("/data", "/data/../a.mp4"), ("/data", "/etc/a.mp4")):
        assert (
            only_issue(parse_value({"video": path, "caption": "A"}, info=info(media_root=root))).reason
            == "CLIP_PATH_INVALID"
        )


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (b'{"a": {"file_name": "x.json"}}', ""),
        (b'{"a": {"file_name": "rows.json"}, "b": {"file_name": "rows.json"}}', ""),
        (b'{"a": {"file_name": "rows.json", "formatting": "sharegbt"}}', "a.formatting"),
        (b'{"a": {"tags": {"user_tag": 3}}}', "a.tags.user_tag"),
        (b'{"a": {"columns": []}, "b": 3}', ""),
        (b'{"a": {"columns": [3]}}', "a.columns"),
        (b'{"a": {"media_root": ["x"]}}', "a.media_root"),
    ],
)
def test_what_is_wrong_with_the_side_file_is_told(data: bytes, field: str) -> None:
    found = parse_dataset_info(data, {"rows.json"})
    if data.startswith(b'{"a": {"columns": []}'):
        assert isinstance(found, DatasetInfo)
        return
    assert isinstance(found, Issue)
    assert (found.reason, found.file, found.field) == ("DATASET_INFO_INVALID", "dataset_info.json", field)
    assert found.message
    assert found.remedy


def test_the_annotation_file_is_found_by_name_or_by_being_alone() -> None:
    def planned(*paths: str, file_name: str | None = None) -> AnnotationPlan | Issue:
        return plan_annotations(dict.fromkeys(paths, 1), DatasetInfo(file_name))

    for paths, file in (
        (["annotations.jsonl", "other.json", "a.mp4"], "annotations.jsonl"),
        (["rows.csv", "sub/other.csv", "a.mp4", "dataset_info.json"], "rows.csv"),
    ):
        found = planned(*paths)
        assert isinstance(found, AnnotationPlan)
        assert found.file == file
        assert found.speaks_of_clips(file)
        assert found.speaks_of_clips("dataset_info.json")
        assert not found.speaks_of_clips("a.mp4")
    named = planned("annotations.json", "other.json", file_name="other.json")
    assert isinstance(named, AnnotationPlan)
    assert named.file == "other.json"
    for paths, reason in (
        (["a.mp4", "b.txt"], "ANNOTATIONS_MISSING"),
        (["a.csv", "b.json"], "ANNOTATIONS_AMBIGUOUS"),
        (["annotations.csv", "annotations.json"], "ANNOTATIONS_AMBIGUOUS"),
    ):
        refused = planned(*paths)
        assert isinstance(refused, Issue)
        assert refused.reason == reason
    large = plan_annotations({"a.csv": 1 << 40}, DatasetInfo())
    assert isinstance(large, Issue)
    assert large.reason == "ANNOTATIONS_TOO_LARGE"


def test_a_text_file_speaks_of_the_clip_of_its_name() -> None:
    texts = {
        "a.txt": "\ufeffA bar moves.\r\n".encode(),
        "sub/b.txt": b"",
        "c.txt": b"\xff",
        "d.txt": b"x" * 600_000,
        "README.txt": b"about",
        "e.txt": b"of two",
    }
    clips = ["a.mp4", "sub/b.webm", "c.MP4", "d.mov", "e.mp4", "e.mov", "f.mp4"]
    plan = plan_annotations(dict.fromkeys([*texts, *clips], 1), DatasetInfo())
    assert isinstance(plan, AnnotationPlan)
    assert dict(plan.clips_by_text) == {"a.txt": "a.mp4", "c.txt": "c.MP4", "d.txt": "d.mov", "sub/b.txt": "sub/b.webm"}
    assert not plan.speaks_of_clips("README.txt")
    reader = AnnotationReader(plan, lambda path: io.BytesIO(texts[path]))
    found = list(reader)
    (row,) = [row for row in found if isinstance(row, Row)]
    assert (row.file, row.number, row.clip_fields) == ("a.txt", 0, ("",))
    assert row.sample.messages == (user("a.mp4", CAPTION_PROMPT), assistant("A bar moves."))
    assert [(row.reason, row.file) for row in found if isinstance(row, Issue)] == [
        ("CLIP_AMBIGUOUS", "e.txt"),
        ("ENCODING_INVALID", "c.txt"),
        ("ROW_TOO_LONG", "d.txt"),
        ("ANSWER_EMPTY", "sub/b.txt"),
    ]
    assert reader.format is AnnotationFormat.TEXT_FILES
    assert reader.row_count == 4


def test_texts_that_all_speak_of_several_clips_are_told() -> None:
    plan = plan_annotations(dict.fromkeys(["a.txt", "a.mp4", "a.mov"], 1), DatasetInfo())
    assert isinstance(plan, AnnotationPlan)
    (found,) = AnnotationReader(plan, lambda path: io.BytesIO(path.encode()))
    assert isinstance(found, Issue)
    assert (found.reason, found.file) == ("CLIP_AMBIGUOUS", "a.txt")


def documented_values() -> list[Any]:
    """Returns the JSON values of the code blocks in the users' documentation."""
    text = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    values = []
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        rest = block.strip()
        while rest:
            value, end = json.JSONDecoder().raw_decode(rest)
            values.append(value)
            rest = rest[end:].strip()
    return values


def test_the_documented_rows_are_what_they_are_said_to_be() -> None:
    *rows, side_file = documented_values()
    assert isinstance(parse_dataset_info(json.dumps(side_file).encode(), {"rows.json"}), DatasetInfo)
    found = [parse_value(row) for row in rows]
    assert [parsed.issues for parsed in found] == [[] for _ in rows]
    assert {parsed.format for parsed in found} == set(AnnotationFormat) - {
        AnnotationFormat.COLUMNS,
        AnnotationFormat.TEXT_FILES,
    }
