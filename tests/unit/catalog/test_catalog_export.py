"""Export: what is written reads back as the same samples, and what a format has no place for is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog_svc.domain.errors import SampleNotHeld
from catalog_svc.domain.export import WRITERS, AnnotationWriter
from catalog_svc.domain.formats.fields import TAG
from catalog_svc.domain.sample import AnnotationFormat, ContentPart, Message, Role, Sample, TextPart, VideoPart
from tests.unit.catalog.annotation_texts import Parsed, assistant, parse, system, user

# Everything that a text may hold, quotes, commas, line ends and broken tags above all, but no whole tag.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30),
    st.text("\"',;|\n\r\t<video>[]{}\\ a", min_size=1, max_size=30),
    # What `str.splitlines` and some editors take for the end of a line, and JSON and CSV do not.
    st.text("\v\f\x1c\x1d\x1e\x85\u2028\u2029,", min_size=1, max_size=8).map(lambda text: f"a{text}b"),
).filter(lambda text: text == text.strip() and text != "" and not TAG.search(text))
TAG_TEXT = st.text("aZ0 äß|\"'[]<>-", min_size=1, max_size=12).map(lambda text: f"t{text}t")
PATH = st.text("abcäö0_- .", min_size=1, max_size=12).map(lambda stem: f"clips/x{stem}.mp4")
SECONDS = st.floats(0, 1e5, allow_nan=False)
LIMITED = st.builds(
    lambda path, start, length, fps, frames, pixels: VideoPart(
        path, start, None if length is None else (start or 0.0) + length, fps, frames, pixels
    ),
    PATH,
    st.none() | SECONDS,
    st.none() | st.floats(0.5, 1e5),
    st.none() | st.floats(0.01, 1000),
    st.none() | st.integers(1, 100_000),
    st.none() | st.integers(1, 10**9),
)
PLAIN = PATH.map(VideoPart)


def turns(video: st.SearchStrategy[VideoPart], *, is_dense: bool) -> st.SearchStrategy[tuple[Message, ...]]:
    """Conversations about at least one clip; dense ones may have two texts side by side."""

    def alternate(parts: list[ContentPart]) -> list[ContentPart]:
        pairs = zip(parts, [None, *parts], strict=False)
        return [part for part, before in pairs if not (isinstance(part, TextPart) and isinstance(before, TextPart))]

    content = st.lists(st.one_of(video, TEXT.map(TextPart)), min_size=1, max_size=4)
    if not is_dense:
        content = content.map(alternate)
    question = content.map(lambda parts: Message(Role.USER, tuple(parts)))
    answer = TEXT.map(assistant)
    first = st.tuples(video, content).map(lambda found: Message(Role.USER, (found[0], *found[1])))
    pairs = st.lists(st.tuples(question, answer), max_size=2)
    return st.builds(
        lambda says, asked, told, more: (*says, asked, told, *(turn for pair in more for turn in pair)),
        st.sampled_from([(), (1,)]).flatmap(lambda one: st.tuples(*(TEXT.map(system) for _ in one))),
        first,
        answer,
        pairs,
    )


def samples(messages: st.SearchStrategy[tuple[Message, ...]]) -> st.SearchStrategy[list[Sample]]:
    ids = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12)
    tags = st.lists(TAG_TEXT, max_size=3, unique=True).map(tuple)
    sample = st.builds(Sample, ids, st.sampled_from(["train", "eval", "a.b-c_1"]), messages, tags)
    return st.lists(sample, min_size=1, max_size=4, unique_by=lambda sample: sample.sample_id)


TAGGED = samples(turns(PLAIN, is_dense=False))
WITHOUT_SYSTEM = samples(
    turns(PLAIN, is_dense=False).map(lambda said: said[1:] if said[0].role is Role.SYSTEM else said)
)
PAIRS = samples(
    st.builds(lambda video, ask, tell: (Message(Role.USER, (video, TextPart(ask))), assistant(tell)), PLAIN, TEXT, TEXT)
)
HELD: dict[AnnotationFormat, st.SearchStrategy[list[Sample]]] = {
    AnnotationFormat.CONTENT_PARTS: samples(turns(LIMITED, is_dense=True)),
    AnnotationFormat.SHAREGPT: TAGGED,
    AnnotationFormat.OPENAI_MESSAGES: TAGGED,
    AnnotationFormat.MS_SWIFT: TAGGED,
    AnnotationFormat.LLAVA: WITHOUT_SYSTEM,
    AnnotationFormat.COLUMNS: PAIRS,
}
"""Samples that a format has a place for."""


def read_back(format_: AnnotationFormat, found: list[Sample]) -> Parsed:
    writer = AnnotationWriter(format_)
    text = "".join([*writer.write(found), writer.end()])
    return parse(writer.file_name, text.encode())


def test_every_format_that_is_written_is_tried() -> None:
    assert set(HELD) == set(WRITERS)
    assert set(WRITERS) == set(AnnotationFormat) - {
        AnnotationFormat.NOVA,
        AnnotationFormat.GEMINI,
        AnnotationFormat.TEXT_FILES,
    }


@pytest.mark.parametrize("format_", WRITERS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_reads_back_as_the_same_samples(format_: AnnotationFormat, data: st.DataObject) -> None:
    written = data.draw(HELD[format_])
    parsed = read_back(format_, written)
    assert parsed.issues == []
    assert [row.sample for row in parsed.rows] == written
    assert parsed.format is format_


@pytest.mark.parametrize("format_", WRITERS)
@settings(max_examples=40, deadline=None)
@given(samples(turns(LIMITED, is_dense=True)))
def test_any_sample_comes_back_whole_or_is_refused(format_: AnnotationFormat, written: list[Sample]) -> None:
    try:
        parsed = read_back(format_, written)
    except SampleNotHeld as error:
        refused = (error.row, error.sample_id)
    else:
        assert [row.sample for row in parsed.rows] == written
        return
    assert format_ is not AnnotationFormat.CONTENT_PARTS
    assert refused[1] == written[refused[0] - 1].sample_id


def test_no_samples_make_a_file_too() -> None:
    assert [read_back(format_, []).rows for format_ in WRITERS] == [[] for _ in WRITERS]


@pytest.mark.parametrize(
    ("format_", "messages", "field", "what"),
    [
        ("SHAREGPT", (user(VideoPart("a.mp4", fps=2.0), "Q"), assistant("A")), "messages[0].content[0]", "limits"),
        ("OPENAI_MESSAGES", (user("a.mp4", "Q", "R"), assistant("A")), "messages[0].content[2]", "two texts"),
        ("MS_SWIFT", (user(VideoPart("a.mp4", 1.0), "Q"), assistant("A")), "messages[0].content[0]", "limits"),
        ("LLAVA", (system("S"), user("a.mp4", "Q"), assistant("A")), "messages[0]", "a system message"),
        ("COLUMNS", (system("S"), user("a.mp4", "Q"), assistant("A")), "messages", "3 messages"),
        ("COLUMNS", (user("a.mp4", "b.mp4", "Q"), assistant("A")), "messages[0].content", "more or less"),
        ("COLUMNS", (user(VideoPart("a.mp4", max_frames=4), "Q"), assistant("A")), "messages[0].content[0]", "limits"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused_by_name(
    format_: str, messages: tuple[Message, ...], field: str, what: str
) -> None:
    sound = Sample("first", "train", (user("a.mp4", "Q"), assistant("A")))
    with pytest.raises(SampleNotHeld) as caught:
        list(AnnotationWriter(AnnotationFormat(format_)).write([sound, Sample("mine", "train", messages)]))
    assert (caught.value.row, caught.value.sample_id, caught.value.field) == (2, "mine", field)
    assert what in caught.value.what


def test_rows_look_as_other_trainers_want_them() -> None:
    sample = Sample("mine", "eval", (user("a.mp4", "Q"), assistant("A")))
    turns = [{"from": "human", "value": "<video>Q"}, {"from": "gpt", "value": "A"}]
    rows: dict[str, Any] = {
        "SHAREGPT": {"conversations": turns, "videos": ["a.mp4"]},
        "LLAVA": {"conversations": turns, "video": "a.mp4"},
        "OPENAI_MESSAGES": {
            "messages": [{"role": "user", "content": "<video>Q"}, {"role": "assistant", "content": "A"}],
            "videos": ["a.mp4"],
        },
    }
    for name, row in rows.items():
        writer = AnnotationWriter(AnnotationFormat(name))
        written = json.loads("".join([*writer.write([sample]), writer.end()]))
        assert written == [{**row, "split": "eval", "sample_id": "mine"}]
    swift = "".join(AnnotationWriter(AnnotationFormat.MS_SWIFT).write([sample]))
    assert json.loads(swift) == {
        "query": "<video>Q", "response": "A", "videos": ["a.mp4"], "split": "eval", "sample_id": "mine"
    }  # fmt: skip
    table = "".join(AnnotationWriter(AnnotationFormat.COLUMNS).write([sample]))
    assert table == "video,question,answer,split,sample_id,tags\r\na.mp4,Q,A,eval,mine,\r\n"


def test_tags_stand_beside_a_row_as_a_list_or_in_a_column() -> None:
    sample = Sample("mine", "eval", (user("a.mp4", "Q"), assistant("A")), ("sport", "two words"))
    swift = "".join(AnnotationWriter(AnnotationFormat.MS_SWIFT).write([sample]))
    assert json.loads(swift)["tags"] == ["sport", "two words"]
    table = "".join(AnnotationWriter(AnnotationFormat.COLUMNS).write([sample]))
    assert table.endswith("a.mp4,Q,A,eval,mine,sport;two words\r\n")
