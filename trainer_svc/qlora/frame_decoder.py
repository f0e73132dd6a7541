"""Reading frames out of a clip with decord or PyAV. Import and use only inside a decode process (`decode_pool`):
FFmpeg can hang or crash on a bad file, and only a killed process gets rid of that."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer_svc.qlora.clip_packets import PacketReader
from trainer_svc.qlora.errors import BadClipError, ClipFault
from trainer_svc.qlora.frame_sampling import FrameRequest, NoFramesError, frames_in_range, scaled_size, select_frames

Frames = npt.NDArray[np.uint8]
FALLBACK = "pyav"
_AT_ONCE = 8
"""Frames that are held in their full size."""
HOPELESS = frozenset({ClipFault.MISSING, ClipFault.EMPTY, ClipFault.NOT_VIDEO, ClipFault.NO_FRAMES})
"""Faults that no other decoder would mend."""


@dataclass(frozen=True, slots=True)
class DecodedFrames:
    """Frames of one clip, with their true times."""

    frames: Frames
    """uint8 (T, H, W, 3), RGB."""
    timestamps: tuple[float, ...]
    """Seconds from the clip's first frame, one for each of T."""
    frame_count: int
    """Frames in the whole clip, counted, not declared."""
    frames_in_range: int
    """Frames between the requested start and end."""
    fps: float
    """Mean frame rate of the whole clip."""
    duration: float
    """Seconds, the last frame's own time included."""
    indices: tuple[int, ...] = ()
    """Which of the clip's frames they are, counted from 0, one for each of T."""


class FrameDecoder(Protocol):
    """One way to read frames. `decode` raises `BadClipError`."""

    name: str

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames: ...


class DecordDecoder:
    """decord 0.6: seeks to what it needs. No wheel for aarch64.

    Takes only clips of which it makes the frames that PyAV makes, at the same times: the others it leaves to PyAV.
    """

    name = "decord"

    def __init__(self) -> None:
        self._packets = PacketReader()
        import decord
        from decord._ffi.base import DECORDLimitReachedError

        decord.logging.set_level(decord.logging.QUIET)
        self._decord = decord
        # Not one of its own errors' kind, and raised for frames that it had to make up.
        self._errors = (decord.DECORDError, DECORDLimitReachedError, RuntimeError, IndexError, *self._packets.errors)

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        container_format = check_container(clip)
        with _as_bad_clip(clip, *self._errors):
            packets = self._packets.read(clip, container_format, for_decord=True)
            if packets.trouble:
                raise ValueError(f"not for decord: {packets.trouble}")
            # fault_tol: a frame that had to be made up out of its neighbours is an error, not a frame.
            reader = self._decord.VideoReader(str(clip), ctx=self._decord.cpu(0), num_threads=1, fault_tol=1e-9)
            if len(reader) != len(packets.stamps):
                raise ValueError(f"decord finds {len(reader)} frames in {len(packets.stamps)} packets")
            times = _seconds(packets.stamps, packets.time_base)
            chosen = select_frames(times, request)
            parts = [
                scaled(picture, request.max_pixels)
                for first in range(0, len(chosen), _AT_ONCE)
                for picture in reader.get_batch(chosen[first : first + _AT_ONCE]).asnumpy()
            ]
            # Without this a reader keeps decoding ahead and holds the frames: dmlc/decord#208.
            reader.seek(0)
        return _decoded(np.stack(parts), times, chosen, request)


class PyAvDecoder:
    """PyAV: reads from the start, keeps only the frames asked for. Works everywhere."""

    name = "pyav"

    def __init__(self) -> None:
        self._packets = PacketReader()

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        container_format = check_container(clip)
        with _as_bad_clip(clip, *self._packets.errors):
            packets = self._packets.read(clip, container_format, for_decord=False)
            found = self._read(clip, container_format, packets.stamps, packets.time_base, request)
            if found is None:
                # Not every packet became a frame, or not in order: a clip that was cut, or is damaged. What counts is
                # what decodes, and when that is shown.
                stamps, base = self._shown(clip, container_format)
                if not stamps:
                    raise NoFramesError("not one frame of it decodes")
                found = self._read(clip, container_format, stamps, base, request)
            if found is None:
                raise ValueError("it decodes to other frames each time")
        return found

    def _shown(self, clip: Path, container_format: str) -> tuple[list[int], float]:
        """When each frame that decodes is shown, in the order of decoding, and the unit in seconds."""
        with self._packets.open(clip, container_format) as (container, stream):
            stamps = [frame.pts for frame in container.decode(stream) if frame.pts is not None]
            return stamps, float(stream.time_base)

    def _read(
        self, clip: Path, container_format: str, stamps: list[int], base: float, request: FrameRequest
    ) -> DecodedFrames | None:
        """The frames asked for of a clip whose frames come at `stamps`; None if they do not."""
        if not stamps:
            return None
        order = np.argsort(np.asarray(stamps), kind="stable")
        times = _seconds([stamps[number] for number in order], base)
        chosen = select_frames(times, request)
        wanted = {int(order[index]): index for index in chosen}
        pictures: dict[int, Frames] = {}
        with self._packets.open(clip, container_format) as (container, stream):
            shown = (frame for frame in container.decode(stream) if frame.pts is not None)
            for number, frame in enumerate(shown):
                if number >= len(stamps) or frame.pts != stamps[number]:
                    return None
                if number in wanted:
                    pixels = frame.to_ndarray(format="rgb24")
                    turned = np.rot90(pixels, k=round(frame.rotation / 90)) if frame.rotation else pixels
                    pictures[wanted[number]] = scaled(turned, request.max_pixels)
                if len(pictures) == len(chosen):
                    return _decoded(np.stack([pictures[index] for index in chosen]), times, chosen, request)
        return None


def best_decoder() -> str:
    """`decord` where it is installed (x86-64), else `pyav`."""
    return "decord" if importlib.util.find_spec("decord") else "pyav"


def make_decoder(name: str) -> FrameDecoder:
    """The decoder called `name`: auto, decord or pyav. Raises `ImportError` when its package is missing."""
    resolved = best_decoder() if name == "auto" else name
    return DecordDecoder() if resolved == "decord" else PyAvDecoder()


def decode_here(clip: Path, request: FrameRequest, name: str = "auto") -> tuple[DecodedFrames, str]:
    """(the frames, the decoder that gave them), by the rules of `DecodePool`: what fails is tried once with PyAV.

    Only for a process that may itself be killed. Raises `BadClipError`.
    """
    first = make_decoder(name)
    try:
        return first.decode(clip, request), first.name
    except BadClipError as error:
        if error.fault in HOPELESS or first.name == FALLBACK:
            raise
    return make_decoder(FALLBACK).decode(clip, request), FALLBACK


_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    *((4, kind, "mov") for kind in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot")),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"FLV", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"GIF8", "gif"),
    (0, b"\x47", "mpegts"),
)


def check_container(clip: Path) -> str:
    """FFmpeg's name of the clip's container, by its first bytes.

    Raises `BadClipError` before any decoder sees the file.
    """
    try:
        with clip.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise BadClipError(str(clip), ClipFault.MISSING, error.strerror or "cannot be opened") from error
    if not head:
        raise BadClipError(str(clip), ClipFault.EMPTY, "the file has 0 bytes")
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    raise BadClipError(str(clip), ClipFault.NOT_VIDEO, "its first bytes are those of no known video container")


@contextmanager
def _as_bad_clip(clip: Path, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except NoFramesError as error:
        raise BadClipError(str(clip), ClipFault.NO_FRAMES, str(error)) from error
    except kinds as error:
        # Decoders quote the file's whole path: where a clip lies on this machine is nobody's business.
        words = (str(error).replace(str(clip), clip.name).strip() or type(error).__name__).splitlines()[0]
        raise BadClipError(str(clip), ClipFault.UNDECODABLE, words[:300]) from error


def scaled(picture: Frames, max_pixels: int) -> Frames:
    """uint8 (H, W, 3) brought to at most `max_pixels`, by the same code for every decoder: each build of FFmpeg scales
    in its own way."""
    size = picture.shape[:2]
    height, width = scaled_size(size[0], size[1], max_pixels)
    if (height, width) == size:
        return picture
    whole = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))


def _seconds(stamps: list[int], time_base: float) -> npt.NDArray[np.float64]:
    """From the first frame: containers may start at any time."""
    return (np.asarray(stamps, dtype=np.float64) - stamps[0]) * time_base


def _decoded(frames: Frames, times: npt.NDArray[np.float64], chosen: list[int], request: FrameRequest) -> DecodedFrames:
    step = float(times[-1]) / (len(times) - 1) if len(times) > 1 else 0.0
    fps = round(1.0 / step, 4) if step > 0 else 1.0
    stamps = tuple(round(float(times[index]), 6) for index in chosen)
    inside = frames_in_range(times, request).size
    return DecodedFrames(
        frames, stamps, len(times), int(inside), fps, round(float(times[-1]) + 1.0 / fps, 4), tuple(chosen)
    )
