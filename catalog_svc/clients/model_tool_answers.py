"""What the model tool answers, as domain objects; raises BadAnswer for what it never says."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from catalog_svc.domain.errors import InvalidField, PreviewFailed, PreviewRefused
from catalog_svc.domain.issue import shown
from catalog_svc.domain.preview import PreviewClip, PreviewFrame, PreviewWarning, SamplePreview, TokenSpan
from meshkit.sandbox.lines import BadAnswer

_REFUSALS = frozenset({"BAD_DATA", "MODEL_UNSUPPORTED"})
_MAX_MESSAGE = 500
_HOST_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+([^\s/:'\"]*)")
"""An absolute path with a folder in it; the last name is kept."""
_JPEG = b"\xff\xd8\xff"
_MAX_JPEG_BYTES = 2 << 20


def preview_from_json(answer: Mapping[str, Any], clips: Sequence[str], names: Mapping[str, str]) -> SamplePreview:
    """Returns the preview; `clips` are the paths of the sample's clips, `names` what to call folders and files here.

    Raises:
        InvalidField, PreviewRefused, PreviewFailed: there is none.
    """
    _raise_failure(answer, names)
    try:
        value = answer["preview"]
        sampling = value["sampling"]
        return SamplePreview(
            max_frames=_count(sampling["max_frames"]),
            fps=_number(sampling["fps"]),
            max_pixels=_count(sampling["max_pixels"]),
            clips=tuple(_clip(path, clip) for path, clip in zip(clips, value["clips"], strict=True)),
            text=_text(value["text"]),
            tokens=_count(value["tokens"]),
            video_tokens=_count(value["video_tokens"]),
            label_tokens=_count(value["label_tokens"]),
            token_limit=_count(value["token_limit"]),
            spans=tuple(_span(span) for span in value["spans"]),
            warnings=tuple(_warning(warning) for warning in value["warnings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer("no preview") from error


def forward_from_json(answer: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str]:
    """Returns reason, message and remedy of a failed forward step, all empty for a sound one."""
    return ("", "", "") if isinstance(answer.get("forward"), dict) else _failure(answer, names)


def _raise_failure(answer: Mapping[str, Any], names: Mapping[str, str]) -> None:
    if "failure" not in answer:
        return
    reason, message, remedy = _failure(answer, names)
    if reason == "BAD_SPEC":
        raise InvalidField("sampling", f"{message}; {remedy}")
    if reason in _REFUSALS:
        raise PreviewRefused(reason, message, remedy)
    raise PreviewFailed(reason, message)


def _failure(answer: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str]:
    failure = answer.get("failure")
    if not isinstance(failure, dict):
        raise BadAnswer("neither an answer nor a failure")
    reason, message, remedy = (_text(failure.get(name)) for name in ("reason", "message", "next_step"))
    # Where things lie on this machine is nobody's business, and says nothing to the owner.
    for name, call_it in names.items():
        message, remedy = message.replace(name, call_it), remedy.replace(name, call_it)
    message, remedy = (_HOST_PATH.sub(r"\1", text) for text in (message, remedy))
    return shown(reason, 40), shown(message, _MAX_MESSAGE), shown(remedy, _MAX_MESSAGE)


def _clip(path: str, value: Mapping[str, Any]) -> PreviewClip:
    return PreviewClip(
        path=path,
        frame_count=_count(value["frame_count"]),
        clip_frame_count=_count(value["clip_frame_count"]),
        decoder=shown(_text(value["decoder"]), 16),
        width=_count(value["width"]),
        height=_count(value["height"]),
        model_width=_count(value["model_width"]),
        model_height=_count(value["model_height"]),
        as_seen=value["as_seen"] is True,
        frames=tuple(_frame(frame) for frame in value["frames"]),
    )


def _frame(value: Mapping[str, Any]) -> PreviewFrame:
    jpeg = base64.b64decode(value["jpeg"], validate=True)
    # It goes to a browser: nothing but a picture must come out of a process that reads strangers' files.
    if not jpeg.startswith(_JPEG) or len(jpeg) > _MAX_JPEG_BYTES:
        raise BadAnswer("no JPEG")
    return PreviewFrame(
        position=_count(value["position"]),
        index=_count(value["index"]),
        seconds=_number(value["seconds"]),
        width=_count(value["width"]),
        height=_count(value["height"]),
        jpeg=jpeg,
    )


def _span(value: Mapping[str, Any]) -> TokenSpan:
    return TokenSpan(
        is_label=value["is_label"] is True,
        is_video=value["is_video"] is True,
        count=_count(value["count"]),
        ids=tuple(_count(token) for token in value["ids"]),
        text=_text(value["text"]),
    )


def _warning(value: Mapping[str, Any]) -> PreviewWarning:
    return PreviewWarning(*(shown(_text(value[name]), _MAX_MESSAGE) for name in ("reason", "message", "remedy")))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise BadAnswer("a count that cannot be")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise BadAnswer("a number that cannot be")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadAnswer("no text")
    return value
