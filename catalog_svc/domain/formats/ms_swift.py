"""ms-swift's and Alpaca's questions and answers, with earlier ones in `history`.

    {"query": "<video>Q", "response": "A", "history": [["Q0", "A0"]], "videos": ["a.mp4"], "system": "S"}
    {"instruction": "Q", "input": "more of Q", "output": "A", "videos": ["a.mp4"]}

If no text has a tag, the clips come first, as in ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.formats.fields import MAX_MESSAGES, BadRow, read_list, read_text
from catalog_svc.domain.formats.format import Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.formats.tagged_chat import VIDEO_TAG, TaggedClips, say_system, tagged_text
from catalog_svc.domain.sample import AnnotationFormat, Role, Sample


@dataclass(frozen=True, slots=True)
class PairKeys:
    """What a row calls the parts of a question and its answer."""

    question: tuple[str, ...]
    """One after the other, each on its own line."""
    answer: str
    history: str = "history"
    clips: str = "videos"
    system: str = "system"


_QUERY = PairKeys(("query",), "response")
_INSTRUCTION = PairKeys(("instruction", "input"), "output")


def _fits(row: RowValue) -> bool:
    return "query" in row or "instruction" in row


def _read(row: RowValue, builder: RowBuilder) -> None:
    read_pairs(row, builder, _QUERY if "query" in row else _INSTRUCTION)


def read_pairs(row: RowValue, builder: RowBuilder, keys: PairKeys) -> None:
    """Tells the questions and answers of a row to the builder; raises BadRow."""
    clips = TaggedClips(row, keys.clips, (VIDEO_TAG,), builder)
    if row.get(keys.system):
        say_system(row, keys.system, builder)
    pairs = [*_history(row, keys.history), _last_pair(row, keys)]
    is_tagged = any(VIDEO_TAG in question for (question, _), _ in pairs)
    shown = [] if is_tagged else clips.show_rest()
    for (question, of_question), (answer, of_answer) in pairs:
        parts = [*shown, *clips.split(Role.USER, question, of_question)]
        builder.say(Role.USER, parts, role_field=of_question, content_field=of_question)
        parts, shown = clips.split(Role.ASSISTANT, answer, of_answer), []
        builder.say(Role.ASSISTANT, parts, role_field=of_answer, content_field=of_answer)
    clips.check_all_shown()


_Said = tuple[str, str]
"""A text and the field it comes from."""


def _history(row: RowValue, name: str) -> list[tuple[_Said, _Said]]:
    if not row.get(name):
        return []
    pairs = []
    for number, pair in enumerate(read_list(row[name], name, MAX_MESSAGES // 2)):
        field = f"{name}[{number}]"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRow("ROW_INVALID", field, f"{field} is not a pair of texts", 'write ["question", "answer"]')
        pairs.append(((pair[0], f"{field}[0]"), (pair[1], f"{field}[1]")))
    return pairs


def _last_pair(row: RowValue, keys: PairKeys) -> tuple[_Said, _Said]:
    named = [name for name in keys.question if row.get(name) not in (None, "")]
    question = "\n".join(_text(row, name) for name in named)
    return (question, named[0] if named else keys.question[0]), (_text(row, keys.answer), keys.answer)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    return value if isinstance(value, str) else read_text(value, name)


def _write(sample: Sample) -> dict[str, Any]:
    turns = list(enumerate(sample.messages))
    row: dict[str, Any] = {}
    texts = [tagged_text(message, f"messages[{number}].content") for number, message in turns]
    if sample.messages[0].role is Role.SYSTEM:
        row["system"] = texts.pop(0)
    *earlier, query, response = texts
    row |= {"query": query, "response": response, "videos": [video.path for video in sample.videos()]}
    if earlier:
        row["history"] = [list(pair) for pair in zip(earlier[::2], earlier[1::2], strict=True)]
    return row


MS_SWIFT = Format(
    AnnotationFormat.MS_SWIFT,
    shape="query and response, or instruction, input and output, with videos beside them",
    fits=_fits,
    read=_read,
    writer=Writer(Layout.JSON_LINES, _write),
)
