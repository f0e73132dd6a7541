"""How long each sample will be, before any of them is encoded: good enough to sort by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError, BadDataError
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.frame_sampling import FrameRequest
from trainer_svc.qlora.spec import SamplingSpec

_Look = tuple[Path, FrameRequest]
_AT_ONCE = 64
"""Clips whose frames are in memory together."""
_BYTES_PER_TOKEN = 3
_PIXELS_PER_TOKEN = 28 * 28
"""Of the Qwen families; others of the kind differ by a factor, which changes little of an order."""
_TOKENS_PER_FRAME = 64
"""Where frames are brought to one size, all have the same number."""


def measure_lengths(
    samples: Sequence[Sample],
    pool: DecodePool,
    sampling: SamplingSpec,
    family: ModelFamily,
    told: Callable[[], None] = lambda: None,
) -> list[int]:
    """About how many tokens each sample has. Decodes one frame of each clip, for its size and how many there are.
    `told` is called every few clips.

    Raises `BadDataError` for a clip without frames.
    """
    wanted = {(clip.path, clip.frame_request(sampling)) for sample in samples for clip in sample.clips}
    is_grid = family.frame_layouts.get("vision") == "grid"
    looked: dict[_Look, int | BadClipError] = {}
    keys = sorted(wanted, key=str)
    for first in range(0, len(keys), _AT_ONCE):
        frames = {key: pool.decode(key[0], _one_frame(key[1])) for key in keys[first : first + _AT_ONCE]}
        looked |= {key: _tokens_of(frame, key[1], is_grid=is_grid) for key, frame in frames.items()}
        told()
    lengths = []
    for sample in samples:
        text = sum(len(part.encode()) for turn in sample.turns for part in turn.parts if isinstance(part, str))
        tokens = text // _BYTES_PER_TOKEN
        for clip in sample.clips:
            found = looked[clip.path, clip.frame_request(sampling)]
            if isinstance(found, BadClipError):
                raise BadDataError(
                    f"sample {sample.sample_id}: {found}", "replace the clip or remove its rows"
                ) from found
            tokens += found
        lengths.append(tokens)
    return lengths


def _tokens_of(frame: Future[DecodedFrames], request: FrameRequest, *, is_grid: bool) -> int | BadClipError:
    """A number and not the frame: those of all clips would fill the memory."""
    try:
        return visual_tokens(frame.result(), request, is_grid=is_grid)
    except BadClipError as error:
        return error


def visual_tokens(look: DecodedFrames, request: FrameRequest, *, is_grid: bool) -> int:
    """About how many tokens a clip gives of which `look` is one frame."""
    frames = request.max_frames
    if request.fps > 0 and look.fps > 0:
        covered = math.floor((look.frames_in_range - 1) / look.fps * request.fps + 1e-6) + 1
        frames = min(max(covered, request.min_frames), request.max_frames)
    frames = max(1, min(frames, look.frames_in_range))
    _, height, width, _ = look.frames.shape
    return math.ceil(frames * (height * width / _PIXELS_PER_TOKEN if is_grid else _TOKENS_PER_FRAME))


def _one_frame(request: FrameRequest) -> FrameRequest:
    return replace(request, fps=0.0, max_frames=1, min_frames=1)
