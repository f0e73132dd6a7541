"""Which characters of a rendered conversation are the assistant's, and which tokens they became.

Templates with `{% generation %}` marks say it themselves. For the others the conversation is rendered up to each
answer, once with the prompt for it and once with the answer: what the second adds to the first is the answer.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_svc.qlora.dataset_rows import Turn
from trainer_svc.qlora.errors import BadDataError, ModelRefusedError

Span = tuple[int, int]
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def as_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as chat templates take them, clips as bare placeholders."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "video"} for part in turn.parts
            ],
        }
        for turn in turns
    ]


def render_prompt(processor: Any, turns: Sequence[Turn], whose: str) -> str:
    """The conversation up to where the assistant is to speak; `whose` it is, is said in errors.

    Raises `BadDataError` when the model's template refuses the conversation, `ModelRefusedError` when it is broken.
    """
    with _refusals(whose):
        return _render(processor, as_messages(turns), prompt=True)


def render_with_spans(processor: Any, turns: Sequence[Turn], whose: str) -> tuple[str, list[Span]]:
    """(the whole conversation as text, the character spans [start, end) of the assistant's turns in it).

    A span holds the answer and the mark that ends it, so that the model learns to stop. Raises what `render_prompt`
    raises, and `ModelRefusedError` when the model's template allows neither way of finding spans.
    """
    with _refusals(whose):
        return _with_spans(processor, as_messages(turns))


def token_mask(
    offsets: Sequence[Sequence[int]], replacements: Sequence[dict[str, Any]], spans: Sequence[Span]
) -> list[bool]:
    """For each token, whether it lies in one of `spans`.

    `offsets` are the tokens' characters in the text after placeholders grew into many video tokens; `replacements`
    (in order) tell where each placeholder was (`span`) and what became of it (`new_span`); `spans` are before that.
    """
    ends = [entry["span"][1] for entry in replacements]
    gained = [0, *(entry["new_span"][1] - entry["span"][1] for entry in replacements)]
    moved = [tuple(char + gained[bisect.bisect_right(ends, char)] for char in span) for span in spans]
    return [any(start < last and end > first for first, last in moved) for start, end in offsets]


@contextmanager
def _refusals(whose: str) -> Iterator[None]:
    """A template is the model's own program: what it raises is about the conversation, or about itself."""
    try:
        yield
    except TemplateSyntaxError as error:
        raise ModelRefusedError(
            f"the model's chat template is broken: {error}", "mend its chat_template.jinja"
        ) from error
    except TemplateError as error:
        raise BadDataError(
            f"{whose}: the model's chat template refuses it: {error}",
            "put the row's turns and roles as this model's template wants them",
        ) from error
    except (ArithmeticError, LookupError, TypeError) as error:
        raise ModelRefusedError(
            f"{whose}: the model's chat template fails: {type(error).__name__}: {error}",
            "use a template that takes messages whose content is a list of texts and videos",
        ) from error


def _with_spans(processor: Any, messages: list[dict[str, Any]]) -> tuple[str, list[Span]]:
    if _MARK.search(_template(processor)):
        rendered, spans = render_jinja_template(
            conversations=[messages],
            chat_template=_template(processor),
            return_assistant_tokens_mask=True,
            **processor.tokenizer.special_tokens_map,
        )
        return rendered[0], [(start, end) for start, end in spans[0]]
    whole = _render(processor, messages)
    return whole, [
        _span_by_prefix(processor, messages, index, whole)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _span_by_prefix(processor: Any, messages: list[dict[str, Any]], index: int, whole: str) -> Span:
    before = _render(processor, messages[:index], prompt=True)
    after = _render(processor, messages[: index + 1])
    if not (after.startswith(before) and whole.startswith(after.rstrip())):
        raise ModelRefusedError(
            "the model's chat template renders an answer differently when more of the conversation follows",
            "use rows with one answer each, or a template with {% generation %} marks",
        )
    # Templates end a turn with a line break after its end mark; the model never has to say that.
    return len(before), len(after.rstrip())


def _render(processor: Any, messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
    text = processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt, chat_template=_template(processor)
    )
    assert isinstance(text, str)
    return text


def _template(processor: Any) -> str:
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise ModelRefusedError(
            "the model has no chat template", "add its chat_template.jinja (instruction-tuned models have one)"
        )
    return template
