"""Two or three columns, from CSV or JSON: what most people have.

video,question,answer            or    video,caption
a.mp4,What moves?,A bar.               a.mp4,A bar moves.
"""

from __future__ import annotations

from typing import Any

from catalog_svc.domain.formats.fields import BadRow, read_text
from catalog_svc.domain.formats.format import CannotHold, Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.sample import AnnotationFormat, Role, Sample, TextPart, VideoPart

CAPTION_PROMPT = "Describe the video."
"""What the user says in a sample made of a caption: a chat model needs a question to answer."""


def say_pair(builder: RowBuilder, video: VideoPart, question: str, answer: str, fields: tuple[str, str]) -> None:
    """Tells a clip with a question and its answer to the builder; `fields` are where the two came from."""
    of_question, of_answer = fields
    builder.say(Role.USER, (video, TextPart(question)), role_field=of_question, content_field=of_question)
    builder.say(Role.ASSISTANT, (TextPart(answer),), role_field=of_answer, content_field=of_answer)


def _fits(row: RowValue) -> bool:
    return "video" in row and ("caption" in row or "answer" in row or "question" in row)


def _read(row: RowValue, builder: RowBuilder) -> None:
    # CSV cells are texts: limits per clip belong to the JSON forms.
    numbers = {name: limit for name, limit in row.items() if not isinstance(limit, str)}
    video = builder.clip(row.get("video"), "video", numbers)
    question, of_question, of_answer = _question(row)
    answer = read_text(row.get(of_answer, ""), of_answer).strip()
    say_pair(builder, video, question, answer, (of_question, of_answer))


def _question(row: RowValue) -> tuple[str, str, str]:
    """Returns the question, its field, and the field of the answer."""
    if "caption" in row and not row.get("question"):
        return CAPTION_PROMPT, "caption", "caption"
    if "caption" in row and "answer" in row:
        remedy = "keep caption, or keep question and answer"
        raise BadRow("ROW_INVALID", "caption", "the row has both a caption and an answer", remedy)
    question = read_text(row.get("question", ""), "question").strip()
    if not question:
        raise BadRow("QUESTION_EMPTY", "question", "the question is empty", "write the question, or remove the row")
    return question, "question", "answer"


def _write(sample: Sample) -> dict[str, Any]:
    if len(sample.messages) != 2:
        raise CannotHold(f"{len(sample.messages)} messages; a row holds one question and one answer", "messages")
    user, assistant = sample.messages
    match (*user.content, *assistant.content):
        case (VideoPart() as video, TextPart() as question, TextPart() as answer):
            if video != VideoPart(video.path):
                raise CannotHold("limits beside the clip", "messages[0].content[0]")
            return {"video": video.path, "question": question.text, "answer": answer.text}
    raise CannotHold("more or less than a clip, then one text, answered by one text", "messages[0].content")


COLUMNS = Format(
    AnnotationFormat.COLUMNS,
    shape="video, question and answer; or video and caption",
    fits=_fits,
    read=_read,
    writer=Writer(Layout.CSV, _write),
)
