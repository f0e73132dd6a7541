"""Reading frames out of a clip with decord or PyAV. Import and use only inside a decode process (`decode_pool`):
FFmpeg can hang or crash on a bad file, and only a killed process gets rid of that."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer_svc.qlora.errors import BadClipError, ClipFault
from trainer_svc.qlora.frame_sampling import FrameRequest, NoFramesError, frames_in_range, scaled_size, select_frames

Frames = npt.NDArray[np.uint8]
FALLBACK = "pyav"
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
    """decord 0.6: seeks to what it needs. No wheel for aarch64."""

    name = "decord"

    def __init__(self) -> None:
        import decord
        from decord._ffi.base import DECORDLimitReachedError

        decord.logging.set_level(decord.logging.QUIET)
        self._decord = decord
        # Not one of its own errors' kind, and raised for frames that it had to make up.
        self._made_up = DECORDLimitReachedError

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        check_container(clip)
        with _as_bad_clip(clip, self._decord.DECORDError, self._made_up, OSError, RuntimeError, IndexError):
            reader = self._open(clip)
            height, width = reader[0].shape[:2]
            size = scaled_size(height, width, request.max_pixels)
            if size != (height, width):
                reader = self._open(clip, height=size[0], width=size[1])
            times = _from_first(reader.get_frame_timestamp(list(range(len(reader))))[:, 0])
            chosen = select_frames(times, request)
            frames = reader.get_batch(chosen).asnumpy()
            # Without this a reader keeps decoding ahead and holds the frames: dmlc/decord#208.
            reader.seek(0)
        return _decoded(np.ascontiguousarray(frames), times, chosen, request)

    def _open(self, clip: Path, height: int = -1, width: int = -1) -> Any:
        # fault_tol: a frame that had to be made up out of its neighbours is an error, not a frame.
        return self._decord.VideoReader(
            str(clip), ctx=self._decord.cpu(0), width=width, height=height, num_threads=1, fault_tol=1e-9
        )


class PyAvDecoder:
    """PyAV: reads from the start, keeps only the frames asked for. Works everywhere."""

    name = "pyav"

    def __init__(self) -> None:
        import av
        import av.logging

        av.logging.set_level(av.logging.PANIC)
        self._av = av

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        container_format = check_container(clip)
        with _as_bad_clip(clip, self._av.FFmpegError, OSError, ValueError):
            times = _from_first(self._packet_times(clip, container_format))
            if not len(times):
                raise NoFramesError("the file holds no video packet")
            chosen = select_frames(times, request)
            frames = self._read(clip, container_format, chosen, request.max_pixels)
        return _decoded(np.stack(frames), times, chosen, request)

    def _open(self, clip: Path, container_format: str) -> Any:
        # The demuxer is forced and only the file itself may be read: a playlist in a clip's clothing opens nothing.
        return self._av.open(str(clip), format=container_format, options={"protocol_whitelist": "file"})

    def _packet_times(self, clip: Path, container_format: str) -> npt.NDArray[np.float64]:
        with self._open(clip, container_format) as container:
            stream = _video_stream(container)
            base = float(stream.time_base)
            stamps = [p.pts for p in container.demux(stream) if p.pts is not None and p.size and not p.is_discard]
        return np.sort(np.asarray(stamps, dtype=np.float64)) * base

    def _read(self, clip: Path, container_format: str, chosen: list[int], max_pixels: int) -> list[Frames]:
        wanted, frames = set(chosen), []
        with self._open(clip, container_format) as container:
            stream = _video_stream(container)
            stream.codec_context.thread_count = 1
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    height, width = scaled_size(frame.height, frame.width, max_pixels)
                    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
                    frames.append(np.rot90(pixels, k=round(frame.rotation / 90)) if frame.rotation else pixels)
                if len(frames) == len(chosen):
                    break
        if len(frames) < len(chosen):
            raise ValueError(f"only {len(frames)} of the {len(chosen)} frames asked for could be decoded")
        return frames


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


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("the file has no video stream")
    return container.streams.video[0]


def _from_first(times: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Seconds from the first frame: containers may start at any time."""
    seconds = np.asarray(times, dtype=np.float64)
    return seconds - seconds[0] if len(seconds) else seconds


def _decoded(frames: Frames, times: npt.NDArray[np.float64], chosen: list[int], request: FrameRequest) -> DecodedFrames:
    step = float(times[-1]) / (len(times) - 1) if len(times) > 1 else 0.0
    # decord keeps times in single precision; six digits more would be noise that changes prompts.
    fps = round(1.0 / step, 4) if step > 0 else 1.0
    stamps = tuple(round(float(times[index]), 6) for index in chosen)
    inside = frames_in_range(times, request).size
    return DecodedFrames(
        frames, stamps, len(times), int(inside), fps, round(float(times[-1]) + 1.0 / fps, 4), tuple(chosen)
    )
