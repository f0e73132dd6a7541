"""Decodes a clip in full. Runs only inside a probe child: FFmpeg reads bytes from strangers here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import av.logging

from catalog_svc.domain.clip import ClipFault, DecodedClip, Decoder, FaultyClip, ProbeOutcome
from catalog_svc.domain.container import HEAD_BYTES, Container, is_webm, missing_bytes, sniff
from catalog_svc.probe.complaints import Complaints
from catalog_svc.probe.frame_count import FrameCount, count_with_decord, count_with_pyav
from catalog_svc.probe.stream_facts import StreamFacts, find_stream, open_clip, read_facts

_NO_MEMORY = FaultyClip(ClipFault.TOO_LARGE, "decoding it takes more memory than a clip is given")


@dataclass(frozen=True, slots=True)
class ClipReader:
    """Reads one clip after another.

    Each is opened twice: once for what its packets say, which takes a hundredth of the time, then to decode it, with
    decord, or with PyAV where decord is not to be used or fails.
    """

    complaints: Complaints
    beat: Callable[[], None]
    """Called while there is progress."""
    max_pixels: int
    """Most pixels (width times height) of a frame."""

    def read(self, path: Path, decoder: Decoder) -> tuple[ProbeOutcome, bytes]:
        """Returns what decoding every frame of the file found, and a poster (JPEG) of it if it is sound.

        Args:
            path: The file; its name says nothing.
            decoder: What to try first.
        """
        size = path.stat().st_size
        if size == 0:
            return FaultyClip(ClipFault.EMPTY, "the file is empty"), b""
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            container = sniff(head)
            if container is None:
                what = "its bytes are those of no video container that is known here"
                return FaultyClip(ClipFault.NOT_VIDEO, what), b""
            lacking = missing_bytes(container, lambda offset, length: os.pread(file.fileno(), length, offset), size)
        if lacking:
            return FaultyClip(ClipFault.TRUNCATED, f"the file ends {lacking} bytes too early: it was cut"), b""
        return self._decode(path, container, decoder, is_webm=is_webm(head))

    def _decode(
        self, path: Path, container: Container, decoder: Decoder, *, is_webm: bool
    ) -> tuple[ProbeOutcome, bytes]:
        av.logging.set_libav_level(av.logging.ERROR)
        av.logging.restore_default_callback()
        try:
            with open_clip(str(path), container) as opened:
                stream = find_stream(opened, self.max_pixels)
                if isinstance(stream, FaultyClip):
                    return stream, b""
                try:
                    facts = read_facts(opened, stream, is_webm=is_webm, beat=self.beat)
                except av.error.FFmpegError as error:
                    what = f"its first frame does not decode: {error.strerror}"
                    return FaultyClip(ClipFault.UNDECODABLE, what), b""
            if isinstance(facts, FaultyClip):
                return facts, b""
            uses_decord = decoder is Decoder.DECORD and facts.is_for_decord
            counted = count_with_decord(path, facts, self.complaints, self.beat) if uses_decord else None
            if counted is not None:
                return _clip(facts, counted, Decoder.DECORD), counted.pictures.poster
            return self._with_pyav(path, container, facts)
        except av.error.FFmpegError as error:
            what = f"it cannot be opened as {container.value}: {error.strerror}"
            return FaultyClip(ClipFault.UNDECODABLE, what), b""
        except MemoryError:
            return _NO_MEMORY, b""

    def _with_pyav(self, path: Path, container: Container, facts: StreamFacts) -> tuple[ProbeOutcome, bytes]:
        with open_clip(str(path), container) as opened:
            stream = find_stream(opened, self.max_pixels)
            if isinstance(stream, FaultyClip):
                return stream, b""
            counted = count_with_pyav(opened, stream, facts, self.complaints, self.beat)
        if isinstance(counted, FaultyClip):
            return counted, b""
        return _clip(facts, counted, Decoder.PYAV), counted.pictures.poster


def _clip(facts: StreamFacts, counted: FrameCount, decoder: Decoder) -> DecodedClip:
    return DecodedClip(
        frame_count=counted.frames,
        duration_seconds=float(counted.duration),
        fps=float(counted.frames / counted.duration),
        width=facts.width,
        height=facts.height,
        codec=facts.codec,
        damaged_frames=counted.damaged,
        decoder=decoder.value,
        is_variable_frame_rate=facts.is_variable_frame_rate,
        rotation=facts.rotation,
        has_audio=facts.has_audio,
        perceptual_hash=counted.pictures.hash(),
        is_browser_playable=facts.is_browser_playable,
    )
