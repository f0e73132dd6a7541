"""How a model's own processor turns frames into tokens, read from its settings. Pure.

The rules are those of transformers 5.23: `video_processing_*.py` of each family, and `replace_video_token` of its
processor. What is not known stays unknown: nothing is guessed from another family.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class FrameBudget(enum.StrEnum):
    """What the limits of pixels hold for."""

    EACH_FRAME = "EACH_FRAME"
    """Each frame by itself (Qwen2-VL)."""
    ALL_FRAMES = "ALL_FRAMES"
    """All frames of a clip together (Qwen3-VL)."""
    SHARED = "SHARED"
    """The lower one for each frame, the upper one for all together, an equal share each (VideoLLaMA3)."""
    FIXED = "FIXED"
    """There are none: every frame becomes as many tokens (SmolVLM, LLaVA-OneVision, InternVL)."""


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How frames become tokens. Sizes in pixels."""

    budget: FrameBudget
    patch_size: int = 0
    frames_per_patch: int = 1
    merge_size: int = 1
    """Patches along each side that become one token."""
    min_pixels: int = 0
    max_pixels: int = 0
    max_frame_tokens: int = 0
    """ALL_FRAMES: also a limit for each frame; 0: none."""
    max_clip_tokens: int = 0
    """EACH_FRAME: also a limit for all frames; 0: none."""
    tokens_per_frame: int = 0
    """FIXED."""
    tokens_per_clip: int = 0
    """Besides those of the frames."""
    patches_per_token: float = 1.0
    """What the tower works on for one token."""
    characters_per_step: int = 0
    """Words, such as a frame's time, that come before each frame or group of `frames_per_patch` frames."""
    is_upper_bound: bool = False
    """The model drops tokens that a frame has in common with the one before."""

    @property
    def is_plausible(self) -> bool:
        """Whether its numbers, which a stranger's file says, are those of some model: others are not worked with."""
        return all(0 <= getattr(self, name) <= most for name, most in _MOST.items())


@dataclass(frozen=True, slots=True)
class _Grid:
    budget: FrameBudget
    patch_size: int
    frames_per_patch: int
    unit: int
    """Pixels along the side of a token, at the family's own sizes."""
    characters_per_step: int = 0
    is_upper_bound: bool = False


_GRIDS = {
    "qwen3_vl": _Grid(FrameBudget.ALL_FRAMES, 16, 2, 32, characters_per_step=13),
    "qwen2_5_vl": _Grid(FrameBudget.EACH_FRAME, 14, 2, 28),
    "qwen2_vl": _Grid(FrameBudget.EACH_FRAME, 14, 2, 28),
    "video_llama_3": _Grid(FrameBudget.SHARED, 14, 1, 28, characters_per_step=10, is_upper_bound=True),
}
_MERGE = 2
_LEAST_TOKENS, _MOST_TOKENS = 128, 768
_MOST = {
    "patch_size": 1024,
    "frames_per_patch": 64,
    "merge_size": 64,
    "patches_per_token": 64.0**2,
    "min_pixels": 1 << 32,
    "max_pixels": 1 << 32,
    "max_frame_tokens": 1 << 32,
    "max_clip_tokens": 1 << 32,
    "tokens_per_frame": 1 << 20,
}
"""What no model comes near."""
_BEYOND_ALL = 1 << 40


def frame_rule(
    config: Mapping[str, Any], processor: Mapping[str, Any], video: Mapping[str, Any] | None
) -> FrameRule | None:
    """Returns the rule of a model; None where it is not known, or its numbers are those of no model.

    Args:
        config: Of config.json.
        processor: Of processor_config.json; empty without one.
        video: The settings of its video processor; None without one.
    """
    kind = config.get("model_type")
    if video is None or not isinstance(kind, str):
        return None
    if kind in _GRIDS:
        rule: FrameRule | None = _grid_rule(kind, _GRIDS[kind], video)
    else:
        read = _FIXED.get(kind)
        rule = read(config, processor) if read else None
    return rule if rule is not None and rule.is_plausible else None


def _grid_rule(kind: str, grid: _Grid, video: Mapping[str, Any]) -> FrameRule:
    size = _mapping(video, "size")
    low = _whole(video, "min_pixels") or _whole(size, "shortest_edge") or _LEAST_TOKENS * grid.unit**2
    high = _whole(video, "max_pixels") or _whole(size, "longest_edge") or _MOST_TOKENS * grid.unit**2
    if kind == "qwen3_vl":  # this one does not know the older names
        low = _whole(size, "shortest_edge") or _LEAST_TOKENS * grid.unit**2
        high = _whole(size, "longest_edge") or _MOST_TOKENS * grid.unit**2
    is_capped = video.get("cap_pixels_per_frame") is True
    merge = _whole(video, "merge_size") or _MERGE
    return FrameRule(
        budget=grid.budget,
        patch_size=_whole(video, "patch_size") or grid.patch_size,
        frames_per_patch=_whole(video, "temporal_patch_size") or grid.frames_per_patch,
        merge_size=merge,
        min_pixels=low,
        max_pixels=high,
        max_frame_tokens=(_whole(video, "max_video_tokens") or 768) if is_capped and kind == "qwen3_vl" else 0,
        max_clip_tokens=(_whole(video, "max_video_tokens") or 128000) if is_capped and kind != "qwen3_vl" else 0,
        patches_per_token=float(merge**2),
        characters_per_step=grid.characters_per_step,
        is_upper_bound=grid.is_upper_bound and video.get("use_token_compression") is not False,
    )


def _smolvlm(config: Mapping[str, Any], processor: Mapping[str, Any]) -> FrameRule | None:
    tokens, scale = _whole(processor, "image_seq_len"), _whole(config, "scale_factor") or 4
    return _fixed(tokens, patches_per_token=scale**2, characters_per_step=40)


def _llava_onevision(_config: Mapping[str, Any], processor: Mapping[str, Any]) -> FrameRule | None:
    patches = _whole(processor, "num_image_tokens")
    pooled = math.ceil(math.isqrt(patches) / 2) ** 2
    return _fixed(pooled, patches_per_token=patches / pooled if pooled else 0, tokens_per_clip=1)


def _internvl(config: Mapping[str, Any], processor: Mapping[str, Any]) -> FrameRule | None:
    tokens = _whole(processor, "image_seq_length") or _whole(config, "image_seq_length")
    ratio = config.get("downsample_ratio", 0.5)
    if not isinstance(ratio, float) or not 1 / 64 <= ratio <= 1:
        return None
    return _fixed(tokens, patches_per_token=1 / ratio**2, characters_per_step=10)


def _fixed(
    tokens: int, *, patches_per_token: float, tokens_per_clip: int = 0, characters_per_step: int = 0
) -> FrameRule | None:
    if not tokens:
        return None
    return FrameRule(
        FrameBudget.FIXED,
        tokens_per_frame=tokens,
        tokens_per_clip=tokens_per_clip,
        patches_per_token=patches_per_token,
        characters_per_step=characters_per_step,
    )


_FIXED = {"smolvlm": _smolvlm, "llava_onevision": _llava_onevision, "internvl": _internvl}
KNOWN_KINDS = frozenset(_GRIDS) | frozenset(_FIXED)
"""Types of models whose rule is known."""


def _mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def _whole(value: Mapping[str, Any], name: str) -> int:
    """A positive number, never above _BEYOND_ALL; 0 for anything else."""
    number = value.get(name)
    return min(number, _BEYOND_ALL) if type(number) is int and number > 0 else 0
