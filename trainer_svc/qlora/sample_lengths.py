"""How long each sample will be, before any of them is encoded: good enough to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError, BadDataError
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.frame_sampling import FrameRequest
from trainer_svc.qlora.spec import SamplingSpec

_BYTES_PER_TOKEN = 3
_PIXELS_PER_TOKEN = 28 * 28
"""Of the Qwen families; others of the kind differ by a factor, which changes little of an order."""
_TOKENS_PER_FRAME = 64
"""Where frames are brought to one size, all have the same number."""


def measure_lengths(
    samples: Sequence[Sample], pool: DecodePool, sampling: SamplingSpec, family: ModelFamily
) -> list[int]:
    """About how many tokens each sample has. Decodes one frame of each clip, for its size and how many there are.

    Raises `BadDataError` for a clip without frames.
    """
    wanted = {(clip.path, clip.frame_request(sampling)) for sample in samples for clip in sample.clips}
    looked = {key: pool.decode(key[0], _one_frame(key[1])) for key in sorted(wanted, key=str)}
    is_grid = family.frame_layouts.get("vision") == "grid"
    lengths = []
    for sample in samples:
        text = sum(len(part.encode()) for turn in sample.turns for part in turn.parts if isinstance(part, str))
        tokens = text // _BYTES_PER_TOKEN
        for clip in sample.clips:
            request = clip.frame_request(sampling)
            try:
                tokens += visual_tokens(looked[clip.path, request].result(), request, is_grid=is_grid)
            except BadClipError as error:
                raise BadDataError(
                    f"sample {sample.sample_id}: {error}", "replace the clip or remove its rows"
                ) from error
        lengths.append(tokens)
    return lengths


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
