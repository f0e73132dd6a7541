"""The tags of a row: what its owner calls the kind of thing that it asks, for tables by kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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


def read_tags(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the tags of a row, each once, in their order; none where it has none. Raises BadRow.

    They are the entries of `tags` and of `category`: texts and whole numbers, each alone or in a list. A comma or a
    semicolon separates tags wherever it stands.
    """
    found: dict[str, None] = {}
    for field in TAG_FIELDS:
        for tag in _tags_of(row.get(field), field):
            if len(tag) > MAX_TAG_CHARACTERS or not tag.isprintable():
                raise BadRow("TAGS_INVALID", field, f"{field} holds {shown(tag)!r}, which is no tag", _REMEDY)
            found[tag] = None
            if len(found) > MAX_TAGS:
                raise BadRow("TAGS_INVALID", field, f"the row has more than {MAX_TAGS} tags", _REMEDY)
    return tuple(found)


def _tags_of(value: Any, field: str) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        if entry is None:
            continue
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            kind = type(entry).__name__
            raise BadRow("TAGS_INVALID", field, f"{field} holds the {kind} {shown(entry, 40)!r}, not a tag", _REMEDY)
        yield from filter(None, (part.strip() for part in _SEPARATORS.split(str(entry))))
