"""Two or three columns: `video,caption` or `video,question,answer`, from CSV or JSON."""

from __future__ import annotations

from typing import Any

from catalog_svc.domain.row_reading import BadRow, read_clip_path, read_text, read_video
from catalog_svc.domain.sample import Message, Role, TextPart

CAPTION_PROMPT = "Describe the video."
"""What the user says in a sample made of a caption: a chat model needs a question to answer."""


def is_columns_row(value: dict[str, Any]) -> bool:
    """Tells whether a row has this form."""
    return "video" in value and ("caption" in value or "answer" in value or "question" in value)


def read_columns_row(value: dict[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Returns the turns, and the field that names each clip; raises BadRow."""
    path = read_clip_path(value.get("video"), "video")
    question, answer_field = _question(value)
    answer = read_text(value.get(answer_field, ""), answer_field)
    if not answer.strip():
        raise BadRow(
            "ANSWER_EMPTY", answer_field, f"the {answer_field} is empty", f"write the {answer_field}, or remove the row"
        )
    # CSV cells are texts: limits per clip belong to the JSON forms.
    numbers = {name: limit for name, limit in value.items() if not isinstance(limit, str)}
    video = read_video(numbers, path, "video")
    turns = (
        Message(Role.USER, (video, TextPart(question))),
        Message(Role.ASSISTANT, (TextPart(answer.strip()),)),
    )
    return turns, ("video",)


def _question(value: dict[str, Any]) -> tuple[str, str]:
    if "caption" in value and not value.get("question"):
        return CAPTION_PROMPT, "caption"
    if "caption" in value and "answer" in value:
        remedy = "keep caption, or keep question and answer"
        raise BadRow("ROW_INVALID", "caption", "the row has both a caption and an answer", remedy)
    question = read_text(value.get("question", ""), "question")
    if not question.strip():
        raise BadRow("QUESTION_EMPTY", "question", "the question is empty", "write the question, or remove the row")
    return question.strip(), "answer"
