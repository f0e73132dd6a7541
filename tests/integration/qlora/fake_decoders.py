"""Decoders that misbehave, each in its own way, when a clip's name says so. Run in the decode process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from trainer_svc.qlora.errors import BadClipError, ClipFault
from trainer_svc.qlora.frame_decoder import DecodedFrames, FrameDecoder, make_decoder
from trainer_svc.qlora.frame_sampling import FrameRequest


class Misbehaving:
    """`hang`, `abort` or `fault` in the clip's name; anything else decodes to one black frame."""

    def __init__(self, name: str) -> None:
        self.name = name

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        if self.name in clip.name or "both" in clip.name:
            if "hang" in clip.name:
                threading.Event().wait()
            if "abort" in clip.name:
                os.abort()
            if "fault" in clip.name:
                raise BadClipError(str(clip), ClipFault.UNDECODABLE, "as its name says")
        count = int(clip.stem) if clip.stem.isdigit() else 1
        frames = np.full((count, 2, 2, 3), os.getpid() % 251, np.uint8)
        return DecodedFrames(frames, (0.0,) * count, count, count, 1.0, 1.0)


class _Hanging:
    """Decodes, but for a clip with `hang` in its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._real = make_decoder(name)

    def decode(self, clip: Path, request: FrameRequest) -> DecodedFrames:
        if "hang" in clip.name:
            threading.Event().wait()
        return self._real.decode(clip, request)


def hanging(name: str) -> FrameDecoder:
    return _Hanging(name)


def misbehaving(name: str) -> FrameDecoder:
    return Misbehaving(name)


def never_starts(name: str) -> FrameDecoder:
    raise ImportError(f"no module {name}")
