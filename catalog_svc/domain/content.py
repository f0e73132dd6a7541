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


def pictures_key(place: ContentPlace, sha256: str) -> str:
    """Returns what the keys of the pictures of a clip begin with, all of them in the service's own bucket.

    They lie beside the clip where that is ours, and in a place by themselves where it stays in another bucket.
    """
    return place.object_key if place.location_id is None else f"pictures/{place.location_id}/{sha256}"
