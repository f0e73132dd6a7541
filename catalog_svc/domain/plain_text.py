"""Which characters names and paths may hold."""

from __future__ import annotations

import re

# C0, DEL and C1 steer terminals; the line and paragraph separators and the direction controls can make a listing lie.
# Joiners stay: Persian words and many emoji need them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def holds_control(text: str) -> bool:
    """Tells whether the text holds a character that is not written but obeyed."""
    return _CONTROL.search(text) is not None


def is_blank(text: str) -> bool:
    """Tells whether there is nothing to see in the text."""
    return not any(character.isprintable() and not character.isspace() for character in text)
