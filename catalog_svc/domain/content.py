"""Where the bytes of files are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentPlace:
    """An object that holds verified bytes. Several files, of several entries of one owner, may name the same."""

    object_key: str
    location_id: str | None = None
    """The bucket and credential of an import by reference; None: the service's own bucket."""
    etag: str = ""
    """The version of an object in another bucket, as that store calls it."""


def content_place(owner_id: str, sha256: str) -> ContentPlace:
    """Returns where an owner's bytes lie in the service's own bucket: each once, whatever entries use them."""
    return ContentPlace(f"contents/{owner_id}/{sha256}")
