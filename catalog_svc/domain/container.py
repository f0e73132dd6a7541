"""What the bytes of a video file say of themselves: which container it is, and whether its end is missing. Pure.

Containers are told by content, never by name: the demuxer is then forced, so that a playlist or a script for FFmpeg
that calls itself .mp4 is never opened as one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

HEAD_BYTES = 4096
"""How much of a file's beginning `sniff` needs."""


class Container(enum.StrEnum):
    """The containers that are opened; the value is the name of FFmpeg's demuxer."""

    MP4 = "mp4"
    MATROSKA = "matroska"
    AVI = "avi"
    MPEG_TS = "mpegts"
    MPEG_PS = "mpeg"
    FLV = "flv"
    OGG = "ogg"
    ASF = "asf"


_MP4_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_EBML_HEADER = b"\x1aE\xdf\xa3"
_EBML_SEGMENT = b"\x18S\x80g"
_TS_SYNC = 0x47
_TS_PACKET_LENGTHS = (188, 192, 204)

ReadAt = Callable[[int, int], bytes]
"""Reads up to `length` bytes at `offset`: `read_at(offset, length)`; fewer at the end of the file."""


def sniff(head: bytes) -> Container | None:
    """Returns the container that a file with this beginning is, or None if it is none that is opened."""
    if head[4:8] in _MP4_FIRST_BOXES:
        return Container.MP4
    if head.startswith(_EBML_HEADER):
        return Container.MATROSKA
    if head.startswith(b"RIFF") and head[8:11] == b"AVI":
        return Container.AVI
    if head.startswith(b"\0\0\x01\xba"):
        return Container.MPEG_PS
    if head.startswith(b"FLV\x01"):
        return Container.FLV
    if head.startswith(b"OggS\0"):
        return Container.OGG
    if head.startswith(_ASF_HEADER):
        return Container.ASF
    return Container.MPEG_TS if _is_transport_stream(head) else None


def is_webm(head: bytes) -> bool:
    """Tells whether a file with this beginning says that it is WebM rather than Matroska."""
    return head.startswith(_EBML_HEADER) and b"\x42\x82\x84webm" in head[:64]


def missing_bytes(container: Container, read_at: ReadAt, size: int) -> int:
    """Returns how many bytes the file lacks by its own account: 0 if none, or if the container cannot tell."""
    if container is Container.MP4:
        return max(0, _mp4_end(read_at, size) - size)
    if container is Container.MATROSKA:
        return max(0, _matroska_end(read_at, size) - size)
    if container is Container.AVI:
        return max(0, 8 + int.from_bytes(read_at(4, 4), "little") - size)
    return 0


def _is_transport_stream(head: bytes) -> bool:
    for length in _TS_PACKET_LENGTHS:
        # In the 192-byte form (Blu-ray) four bytes of time code go before the sync byte.
        start = length - 188 if length == 192 else 0
        packets = head[start : start + 5 * length : length]
        if len(packets) == 5 and all(byte == _TS_SYNC for byte in packets):
            return True
    return False


def _mp4_end(read_at: ReadAt, size: int) -> int:
    """Walks the top-level boxes and returns where the last one says that it ends."""
    position = 0
    while position < size:
        header = read_at(position, 16)
        if len(header) < 8:
            return position + 8
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # "to the end of the file"
            return size
        if length < 8:  # not a box: whatever follows the last box is not ours to judge
            return position
        position += length
    return position


def _matroska_end(read_at: ReadAt, size: int) -> int:
    """Returns where the segment says that it ends; 0 for a segment of unknown size, as live recordings have."""
    header_length, width = _ebml_size(read_at(4, 8))
    if header_length is None:
        return 0
    start = 4 + width + header_length
    if start >= size or read_at(start, 4) != _EBML_SEGMENT:
        return 0
    length, width = _ebml_size(read_at(start + 4, 8))
    return 0 if length is None else start + 4 + width + length


def _ebml_size(data: bytes) -> tuple[int | None, int]:
    """Reads a variable-length size (RFC 8794, section 4): its value (None: unknown) and its width in bytes."""
    if not data or not data[0]:
        return None, 0
    width = 9 - data[0].bit_length()
    if len(data) < width:
        return None, 0
    bits = 7 * width
    value = int.from_bytes(data[:width], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), width
