"""What service and probe child say to each other about files. No answer of a child is trusted."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict, fields
from typing import Any

from catalog_svc.domain.clip import ClipFault, DecodedClip, Decoder, FaultyClip, ProbeOutcome
from catalog_svc.domain.issue import shown
from meshkit.sandbox.lines import BadAnswer

MAX_DETAIL = 300
MAX_POSTER_BYTES = 64 * 1024
MAX_PROXY_BYTES = 4 * 1024 * 1024
MAX_LINE_BYTES = 6 * 1024 * 1024
"""The longest answer is a proxy, in base64."""
# Whether a picture is stored is for the service to say.
_NOT_THE_CHILDS = frozenset({"has_poster", "has_proxy"})
_CLIP_FIELDS = frozenset(field.name for field in fields(DecodedClip)) - _NOT_THE_CHILDS
_FLAGS = ("is_variable_frame_rate", "has_audio", "is_browser_playable")


def picture_to_json(kind: str, data: bytes) -> dict[str, Any]:
    """Returns the part of a message that carries a `poster` or a `proxy`."""
    return {kind: base64.b64encode(data).decode()}


def poster_from_json(message: dict[str, Any]) -> bytes:
    """Returns the JPEG of an answer, empty if there is none; raises BadAnswer for anything else."""
    data = _bytes(message, "poster", MAX_POSTER_BYTES)
    if data and not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        raise BadAnswer("a poster that is no JPEG")
    return data


def proxy_from_json(message: dict[str, Any]) -> bytes:
    """Returns the MP4 of an answer, empty if there is none; raises BadAnswer for anything else."""
    data = _bytes(message, "proxy", MAX_PROXY_BYTES)
    if data and data[4:8] != b"ftyp":
        raise BadAnswer("a proxy that is no MP4")
    return data


def outcome_to_json(outcome: ProbeOutcome) -> dict[str, Any]:
    """Returns the message for an outcome."""
    if isinstance(outcome, FaultyClip):
        return {"fault": outcome.fault.value, "detail": outcome.detail}
    return {"clip": {name: value for name, value in asdict(outcome).items() if name not in _NOT_THE_CHILDS}}


def outcome_from_json(message: dict[str, Any]) -> ProbeOutcome:
    """Inverts `outcome_to_json`; raises BadAnswer for anything that is not possible."""
    if "fault" in message:
        return _fault(message)
    values = message.get("clip")
    if not isinstance(values, dict) or set(values) != _CLIP_FIELDS:
        raise BadAnswer("neither a clip nor a fault")
    _check_clip(values)
    return DecodedClip(**{**values, "codec": shown(values["codec"], 32)})


def _check_clip(values: dict[str, Any]) -> None:
    counts = [values[name] for name in ("frame_count", "width", "height")]
    sizes = [values[name] for name in ("duration_seconds", "fps")]
    if not all(type(count) is int and 0 < count < 1 << 31 for count in counts):
        raise BadAnswer("a count that cannot be")
    if not all(isinstance(size, int | float) and 0 < size < 1e9 for size in sizes):
        raise BadAnswer("a time that cannot be")
    damaged = values["damaged_frames"]
    if type(damaged) is not int or not 0 <= damaged <= values["frame_count"] or not isinstance(values["codec"], str):
        raise BadAnswer("a clip that cannot be")
    if values["decoder"] not in list(Decoder) or values["rotation"] not in (0, 90, 180, 270):
        raise BadAnswer("a decoder or a rotation that cannot be")
    if not all(type(values[name]) is bool for name in _FLAGS):
        raise BadAnswer("a flag that is none")
    if type(values["perceptual_hash"]) is not int or not 0 <= values["perceptual_hash"] < 1 << 64:
        raise BadAnswer("a hash that cannot be")


def key_paths_from_json(message: dict[str, Any]) -> list[str] | None:
    """Returns what a JSON scan found: places, or None for a file that is not JSON; raises BadAnswer."""
    found = message.get("remote_code", "absent")
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(place, str) for place in found):
        raise BadAnswer("no list of places")
    return [shown(place, 200) for place in found[:10]]


def _bytes(message: dict[str, Any], name: str, most: int) -> bytes:
    text = message.get(name, "")
    if not isinstance(text, str) or len(text) > (most + 2) // 3 * 4:
        raise BadAnswer(f"a {name} that is too long")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadAnswer(f"a {name} that is not base64") from error


def _fault(message: dict[str, Any]) -> FaultyClip:
    try:
        return FaultyClip(ClipFault(message["fault"]), shown(message.get("detail", ""), MAX_DETAIL))
    except ValueError as error:
        raise BadAnswer("an unknown fault") from error
