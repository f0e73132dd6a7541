"""Which characters of a rendered conversation are the assistant's, and which tokens they became.

Templates with `{% generation %}` marks say it themselves. Marks are taken at their word where each begins where the
prompt for the answer ends and holds a token that ends it: a model that learns less would never stop. For all others the
conversation is rendered up to each answer, once with the prompt for it and once with the answer: what the second adds
to the first is the answer. Where a template opens an answer otherwise than it prompts for one (LLaVA-OneVision's
puts a blank before the line break), the answer is put after the prompt: that is where the model will be asked.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer_svc.qlora.dataset_rows import Turn
from trainer_svc.qlora.errors import BadDataError, ModelRefusedError

Span = tuple[int, int]
Method = Literal["marks", "prompts", "moved"]
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = "\ue000"
"""An answer that no template and no other text holds."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text, and where in it the assistant speaks."""

    text: str
    spans: list[Span]
    """[start, end) of each answer and the token that ends it, in characters."""
    method: Method
    """How they were found. marks: by the template's own; prompts: by what follows each prompt; moved: by putting what
    the template opens otherwise where its prompt ends."""


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

    What `render` makes of the same turns and an answer begins with it. Raises `BadDataError` when the model's template
    refuses the conversation, `ModelRefusedError` when it is broken.
    """
    with _refusals(whose):
        messages = as_messages(turns)
        prompt = _render(processor, messages, prompt=True)
        answered = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=None)
        if answered is None or _follows_its_prompt(processor, messages, answered):
            return prompt
        return _by_prompts(processor, messages).text + prompt[len(_render(processor, messages)) :]


def render(processor: Any, turns: Sequence[Turn], whose: str) -> RenderedChat:
    """The whole conversation, and the assistant's turns in it.

    A span holds the answer and the token that ends it, where the template has one, so that the model learns to stop.
    Raises what `render_prompt` raises, and `ModelRefusedError` when the model's template allows no way of finding them.
    """
    with _refusals(whose):
        messages = as_messages(turns)
        if _MARK.search(_template(processor)):
            marked = _by_marks(processor, messages)
            if _are_sound(processor, messages, marked):
                return marked
        return _by_prompts(processor, messages)


def how_answers_are_found(processor: Any, rendered: RenderedChat) -> str:
    """For the log of a run: by which method, and why not by the template's marks where it has any."""
    if rendered.method == "marks":
        return "what is learned is told by the chat template's own {% generation %} marks"
    if rendered.method == "moved":
        words = "the chat template opens an answer otherwise than it prompts for one: answers are put after the prompt"
    else:
        words = "what is learned is what the chat template adds to the prompt for each answer"
    if _MARK.search(_template(processor)):
        words += "; its {% generation %} marks are not used: they leave out the token that ends an answer, or begin "
        words += "elsewhere than the prompt ends"
    return words


def ends_with(processor: Any, rendered: RenderedChat, tokens: Sequence[int]) -> bool:
    """Whether every answer ends with one of `tokens`."""
    ends = tuple(processor.tokenizer.convert_ids_to_tokens(list(tokens)))
    return all(rendered.text[start:end].rstrip().endswith(ends) for start, end in rendered.spans)


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


def _by_marks(processor: Any, messages: list[dict[str, Any]]) -> RenderedChat:
    rendered, spans = render_jinja_template(
        conversations=[messages],
        chat_template=_template(processor),
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    return RenderedChat(rendered[0], [(start, end) for start, end in spans[0]], "marks")


def _are_sound(processor: Any, messages: list[dict[str, Any]], marked: RenderedChat) -> bool:
    """Whether each span begins where a prompt ends, and ends with a control token."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [_render(processor, messages[:index], prompt=True) for index in answers]
    starts = {len(prompt) for prompt in prompts if marked.text.startswith(prompt)}
    ends = tuple(token for token in processor.tokenizer.all_special_tokens if token)
    return bool(marked.spans) and all(
        start in starts and marked.text[start:end].rstrip().endswith(ends) for start, end in marked.spans
    )


def _by_prompts(processor: Any, messages: list[dict[str, Any]]) -> RenderedChat:
    whole = _render(processor, messages)
    method: Method = "prompts"
    text, taken, spans = "", 0, []
    for index in (index for index, message in enumerate(messages) if message["role"] == "assistant"):
        prompt = _render(processor, messages[:index], prompt=True)
        after = _render(processor, messages[: index + 1])
        # Templates end a turn with a line break after its end mark; the model never has to say that.
        end = len(after.rstrip())
        if after.startswith(prompt):
            opening, begin = len(prompt), len(prompt)
        else:
            opening, begin = _opening(processor, messages[:index], prompt, after)
            method = "moved"
        if not whole.startswith(after[:end]):
            raise _unlike_answers()
        text += whole[taken:opening] + prompt[opening:]
        spans.append((len(text), len(text) + max(0, end - begin)))
        text += whole[begin:end]
        taken = max(begin, end)
    return RenderedChat(text + whole[taken:], spans, method)


def _opening(processor: Any, before: list[dict[str, Any]], prompt: str, after: str) -> tuple[int, int]:
    """(where the template begins to open an answer, where the answer itself begins) in the conversation `after` it."""
    closed = _render(processor, before)
    stand_in = {"role": "assistant", "content": [{"type": "text", "text": _STAND_IN}]}
    opened, found, _ = _render(processor, [*before, stand_in]).partition(_STAND_IN)
    if not (found and prompt.startswith(closed) and opened.startswith(closed) and after.startswith(opened)):
        raise _unlike_answers()
    return len(closed), len(opened)


def _follows_its_prompt(processor: Any, messages: list[dict[str, Any]], index: int) -> bool:
    return _render(processor, messages[: index + 1]).startswith(_render(processor, messages[:index], prompt=True))


def _unlike_answers() -> ModelRefusedError:
    return ModelRefusedError(
        "the model's chat template renders an answer differently when more of the conversation follows",
        "use rows with one answer each, or a template with {% generation %} marks",
    )


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
