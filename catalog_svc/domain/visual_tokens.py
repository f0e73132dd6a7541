"""How many tokens the frames of a clip become, by the size of the clip alone. Pure.

Frames are chosen as the trainer chooses them. Sizes follow `smart_resize` of transformers 5.23, in
`models/qwen2_vl/video_processing_qwen2_vl.py` and `models/qwen3_vl/video_processing_qwen3_vl.py`, with the limits of
pixels that these processors come with and without `cap_pixels_per_frame`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from catalog_svc.domain.clip import DecodedClip
from catalog_svc.domain.row_shapes import available_frames
from catalog_svc.domain.sample import VideoPart

_MIN_FRAMES = 2
_FRAMES_PER_PATCH = 2
_MERGE = 2


class VisionFamily(enum.StrEnum):
    """Which rule turns frames into tokens."""

    QWEN2_VL = "QWEN2_VL"
    """Qwen2.5-VL as well."""
    QWEN3_VL = "QWEN3_VL"


@dataclass(frozen=True, slots=True)
class VisualSampling:
    """Which frames of a clip a model sees."""

    family: VisionFamily = VisionFamily.QWEN3_VL
    max_frames: int = 8
    fps: float = 0.0
    """Frames a second, up to `max_frames`; 0: `max_frames` spread evenly."""
    max_pixels: int = 0
    """Of a frame; 0: as the processor says."""

    def of(self, video: VideoPart) -> VisualSampling:
        """Returns the sampling with what a row says of its clip in front."""
        return VisualSampling(
            self.family,
            self.max_frames if video.max_frames is None else video.max_frames,
            self.fps if video.fps is None else video.fps,
            self.max_pixels if video.max_pixels is None else video.max_pixels,
        )


def visual_tokens(clip: DecodedClip, video: VideoPart, sampling: VisualSampling) -> int:
    """Returns the tokens of the frames that a row takes from a clip."""
    sampling = sampling.of(video)
    frames = max(_MIN_FRAMES, sampled_frames(clip, video, sampling))
    height, width = _scaled(clip.height, clip.width, sampling.max_pixels)
    patch = 14 if sampling.family is VisionFamily.QWEN2_VL else 16
    resize = _qwen2_size if sampling.family is VisionFamily.QWEN2_VL else _qwen3_size
    height, width = resize(frames, height, width, patch * _MERGE)
    return math.ceil(frames / _FRAMES_PER_PATCH) * (height // patch) * (width // patch) // _MERGE**2


def sampled_frames(clip: DecodedClip, video: VideoPart, sampling: VisualSampling) -> int:
    """Returns how many frames are taken: 1 to `max_frames`."""
    available = available_frames(clip, video)
    wanted = sampling.max_frames
    if sampling.fps > 0:
        covered = math.floor((available - 1) / clip.fps * sampling.fps + 1e-6) + 1
        wanted = min(max(covered, _MIN_FRAMES), sampling.max_frames)
    return max(1, min(wanted, available))


def _scaled(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    if max_pixels <= 0 or height * width <= max_pixels:
        return height, width
    factor = math.sqrt(max_pixels / (height * width))
    return max(2, int(height * factor) // 2 * 2), max(2, int(width * factor) // 2 * 2)


def _qwen2_size(_frames: int, height: int, width: int, factor: int) -> tuple[int, int]:
    """Resizes each frame to between 128 and 768 tokens."""
    return _fitted(1, height, width, factor, 128 * 28 * 28, 768 * 28 * 28, round_frames=1)


def _qwen3_size(frames: int, height: int, width: int, factor: int) -> tuple[int, int]:
    """Resizes all frames to between 128 and 768 tokens' worth of pixels together."""
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    rounded = round(frames / _FRAMES_PER_PATCH) * _FRAMES_PER_PATCH
    return _fitted(frames, height, width, factor, 128 * 32 * 32, 768 * 32 * 32, round_frames=rounded)


def _fitted(
    frames: int, height: int, width: int, factor: int, least: int, most: int, *, round_frames: int
) -> tuple[int, int]:
    fitted_height, fitted_width = round(height / factor) * factor, round(width / factor) * factor
    pixels = round_frames * fitted_height * fitted_width
    if pixels > most:
        beta = math.sqrt(frames * height * width / most)
        fitted_height = max(factor, math.floor(height / beta / factor) * factor)
        fitted_width = max(factor, math.floor(width / beta / factor) * factor)
    elif pixels < least:
        beta = math.sqrt(least / (frames * height * width))
        fitted_height = math.ceil(height * beta / factor) * factor
        fitted_width = math.ceil(width * beta / factor) * factor
    return fitted_height, fitted_width
