"""What parent and child say to each other: one JSON object a line. No answer of a child is trusted.

While a child works it may say so, with `SIGN_OF_LIFE`; one that breaks down says over what, with `broken`.
"""

from __future__ import annotations

import json
from typing import Any

SIGN_OF_LIFE = {"alive": True}


class BadAnswer(ValueError):
    """The child said something that it never says: it is broken, or taken over."""


def encode(message: dict[str, Any]) -> bytes:
    """Returns one line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Returns the object of one line; raises BadAnswer."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadAnswer("not JSON") from error
    if not isinstance(message, dict):
        raise BadAnswer("not an object")
    return message
