"""What service and probe child say to each other about files. No answer of a child is trusted."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from catalog_svc.domain.clip import ClipFault, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.issue import shown
from meshkit.sandbox.lines import BadAnswer

MAX_DETAIL = 300


def outcome_to_json(outcome: ProbeOutcome) -> dict[str, Any]:
    """Returns the message for an outcome."""
    if isinstance(outcome, FaultyClip):
        return {"fault": outcome.fault.value, "detail": outcome.detail}
    return {"clip": asdict(outcome)}


def outcome_from_json(message: dict[str, Any]) -> ProbeOutcome:
    """Inverts `outcome_to_json`; raises BadAnswer for anything that is not possible."""
    if "fault" in message:
        return _fault(message)
    values = message.get("clip")
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(DecodedClip)}:
        raise BadAnswer("neither a clip nor a fault")
    counts = [values[name] for name in ("frame_count", "width", "height")]
    sizes = [values[name] for name in ("duration_seconds", "fps")]
    if not all(type(count) is int and 0 < count < 1 << 31 for count in counts):
        raise BadAnswer("a count that cannot be")
    if not all(isinstance(size, int | float) and 0 < size < 1e9 for size in sizes):
        raise BadAnswer("a time that cannot be")
    damaged = values["damaged_frames"]
    if type(damaged) is not int or not 0 <= damaged <= values["frame_count"] or not isinstance(values["codec"], str):
        raise BadAnswer("a clip that cannot be")
    return DecodedClip(**{**values, "codec": shown(values["codec"], 32)})


def key_paths_from_json(message: dict[str, Any]) -> list[str] | None:
    """Returns what a JSON scan found: places, or None for a file that is not JSON; raises BadAnswer."""
    found = message.get("remote_code", "absent")
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(place, str) for place in found):
        raise BadAnswer("no list of places")
    return [shown(place, 200) for place in found[:10]]


def _fault(message: dict[str, Any]) -> FaultyClip:
    try:
        return FaultyClip(ClipFault(message["fault"]), shown(message.get("detail", ""), MAX_DETAIL))
    except ValueError as error:
        raise BadAnswer("an unknown fault") from error
