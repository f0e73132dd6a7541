"""Clips: what decoding found, and what can be wrong with one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from catalog_svc.domain.content import ContentPlace


class ClipFault(enum.StrEnum):
    """Why a file is no usable clip; the value is the reason of the issue."""

    EMPTY = "CLIP_EMPTY"
    NOT_VIDEO = "CLIP_NOT_VIDEO"
    TRUNCATED = "CLIP_TRUNCATED"
    UNDECODABLE = "CLIP_UNDECODABLE"
    TIMEOUT = "CLIP_TIMEOUT"
    TOO_LARGE = "CLIP_TOO_LARGE"
    REFERENCE_BROKEN = "CLIP_REFERENCE_BROKEN"
    CONTENT_LOST = "CLIP_CONTENT_LOST"


REMEDIES = {
    ClipFault.EMPTY: "upload the clip again from the original, or remove it and its rows",
    ClipFault.NOT_VIDEO: "upload a video in MP4, MOV, Matroska, WebM, AVI or MPEG-TS, or remove the file and its rows",
    ClipFault.TRUNCATED: "upload the clip again from the original: its end is missing",
    ClipFault.UNDECODABLE: "encode the clip again, such as H.264 in MP4, and upload it, or remove it and its rows",
    ClipFault.TIMEOUT: "encode the clip again, shorter or smaller, and upload it, or remove it and its rows",
    ClipFault.REFERENCE_BROKEN: "put the object back as it was, or import it again",
    ClipFault.CONTENT_LOST: "upload the clip again: its bytes are no longer what was stored",
    ClipFault.TOO_LARGE: "scale the clip down and upload it again, or remove it and its rows",
}

VIDEO_EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".3g2",
        ".flv",
        ".ogv",
        ".wmv",
    ]
)
"""A file with one of these says that it is a clip: if it does not decode, that is an error even if no row uses it."""

# What depends on the machine's load, or on a store, must be tried again by the next validation; all else is a property
# of the bytes.
TRANSIENT_FAULTS = frozenset({ClipFault.TIMEOUT, ClipFault.REFERENCE_BROKEN, ClipFault.CONTENT_LOST})


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """What decoding every frame of a clip found."""

    frame_count: int
    duration_seconds: float
    fps: float
    width: int
    height: int
    codec: str
    damaged_frames: int = 0
    """Frames that decoded with visible damage."""
    decoder: str = "pyav"
    """`decord` or `pyav`: what decoded it."""
    is_variable_frame_rate: bool = False
    """Whether its frames are not evenly spread in time."""
    rotation: int = 0
    """Degrees, clockwise, by which frames are turned to be shown; width and height are those that are shown."""
    has_audio: bool = False
    perceptual_hash: int = 0
    """Unsigned, 64 bits: see `catalog_svc.domain.near_duplicates`."""
    is_browser_playable: bool = True
    """Whether every current browser plays container, codec and pixel format."""
    has_poster: bool = False
    """Whether a picture of it is stored."""
    has_proxy: bool = False
    """Whether a short copy that browsers play is stored."""


class Decoder(enum.StrEnum):
    """What decodes frames."""

    DECORD = "decord"
    PYAV = "pyav"


@dataclass(frozen=True, slots=True)
class FaultyClip:
    """Why a file is no usable clip."""

    fault: ClipFault
    detail: str


ProbeOutcome = DecodedClip | FaultyClip


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of a dataset, ready to be read."""

    path: str
    sha256: str
    size_bytes: int
    decoded: DecodedClip
    place: ContentPlace
