"""The tags of a row: what its owner calls the kind of thing that it asks, for tables by kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.formats.fields import BadRow
from catalog_svc.domain.issue import shown

TAG_FIELDS = ("tags", "category")
MAX_TAGS = 16
MAX_TAG_CHARACTERS = 64
SEPARATOR = ";"
"""What stands between tags where they are one text; `,` is read as well."""
_SEPARATORS = re.compile("[,;]")
_REMEDY = f"give up to {MAX_TAGS} tags of up to {MAX_TAG_CHARACTERS} printable characters, as a list or with ; between"


@dataclass(frozen=True, slots=True)
class RowTags:
    """The tags of a row."""

    names: tuple[str, ...]
    ignored: str = ""
    """What `category` holds that is no tag; empty where there is none."""


def read_tags(row: Mapping[str, Any]) -> RowTags:
    """Returns the tags of a row, each once, in their order. Raises BadRow for what is no tag in `tags`.

    They are the entries of `tags` and of `category`: texts and whole numbers, each alone or in a list. A comma or a
    semicolon separates tags wherever it stands. `category` is a name that others use for things of their own: entries
    of it that are no tags are passed over.
    """
    strict, lenient = TAG_FIELDS
    found: dict[str, None] = {}
    for entry in _entries(row.get(strict)):
        _add(entry, strict, found)
    ignored = ""
    for entry in _entries(row.get(lenient)):
        try:
            _add(entry, lenient, found)
        except BadRow as bad:
            ignored = ignored or bad.message
    return RowTags(tuple(found), ignored)


def _entries(value: Any) -> list[Any]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if entry is not None]


def _add(entry: Any, field: str, found: dict[str, None]) -> None:
    """Adds all tags of an entry, or none and raises BadRow."""
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        kind = type(entry).__name__
        raise BadRow("TAGS_INVALID", field, f"{field} holds the {kind} {shown(entry, 40)!r}, not a tag", _REMEDY)
    tags = dict.fromkeys(filter(None, (part.strip() for part in _SEPARATORS.split(str(entry)))))
    for tag in tags:
        if len(tag) > MAX_TAG_CHARACTERS or not tag.isprintable():
            raise BadRow("TAGS_INVALID", field, f"{field} holds {shown(tag)!r}, which is no tag", _REMEDY)
    if len(found | tags) > MAX_TAGS:
        raise BadRow("TAGS_INVALID", field, f"the row has more than {MAX_TAGS} tags", _REMEDY)
    found.update(tags)
