"""Paths of files within a dataset or model: relative, plain, and the same on every machine."""

from __future__ import annotations

from catalog_svc.domain.plain_text import holds_control

MAX_PATH_BYTES = 512
_SEPARATOR = "/"


class BadPath(ValueError):
    """The path cannot be used; the text says why and what would be right."""


def check_path(path: str) -> str:
    """Returns the path if it may name a file.

    Raises:
        BadPath: it is empty, absolute, too long, or a part of it is empty, `.`, `..`, or holds a control character
            or `\\`.
    """
    try:
        length = len(path.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadPath("is not text that UTF-8 can hold; rename the file") from error
    if not 1 <= length <= MAX_PATH_BYTES:
        raise BadPath(f"has {length} bytes in UTF-8; use 1 to {MAX_PATH_BYTES}")
    if path.startswith(_SEPARATOR):
        raise BadPath("starts with `/`; give it relative to the folder that is uploaded")
    if "\\" in path:
        raise BadPath("holds `\\`; write `/` between folders")
    if holds_control(path):
        raise BadPath("holds a control character; rename the file")
    for part in path.split(_SEPARATOR):
        if part in ("", ".", ".."):
            raise BadPath(f"has the part {part!r}; give a plain path such as clips/0001.mp4")
    return path


def is_path(path: str) -> bool:
    """Tells whether the path may name a file."""
    try:
        check_path(path)
    except BadPath:
        return False
    return True


def ancestors(path: str) -> tuple[str, ...]:
    """Returns the folders that the path goes through: `a/b/c` → (`a`, `a/b`)."""
    parts = path.split(_SEPARATOR)
    return tuple(_SEPARATOR.join(parts[:count]) for count in range(1, len(parts)))


def file_name(path: str) -> str:
    """Returns the last part."""
    return path.rpartition(_SEPARATOR)[2]


def extension(path: str) -> str:
    """Returns the lower-case extension with its dot, or the empty string."""
    name = file_name(path)
    stem, dot, last = name.rpartition(".")
    return f".{last.lower()}" if dot and stem else ""
