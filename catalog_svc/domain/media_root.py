"""Where the paths of an annotation file begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaRoot:
    """Turns the path by which a row names a clip into the clip's path in the dataset.

    A relative root, such as `media`, is put in front: the rows' paths count from that folder. An absolute one or an
    address, such as `/data` or `s3://bucket/videos`, is taken off: the dataset's folder was there.
    """

    root: str = ""
    bind: Callable[[str], str | None] | None = None
    """Returns the path of the clip that was imported from a web address; None: it was not."""

    def resolve(self, path: str) -> str:
        """Returns the path in the dataset; unchanged where the root does not fit."""
        root = self.root.rstrip("/")
        if not root:
            return path
        if is_absolute(root):
            return path.removeprefix(f"{root}/")
        return path if is_absolute(path) else f"{root}/{path}"


def is_absolute(path: str) -> bool:
    """Tells whether a path begins at the root of a machine or names one of its own."""
    return path.startswith(("/", "\\")) or "://" in path or path[1:3] in (":\\", ":/")
