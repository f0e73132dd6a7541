"""The pixels that a model is given, turned back into pictures: after resizing, cropping, padding, patches and norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer_svc.qlora.frame_decoder import Frames

_CHANNELS = 3


def seen_pictures(inputs: Mapping[str, Any], frame_counts: Sequence[int], video_processor: Any) -> list[Frames | None]:
    """What the model sees of each clip, uint8 (T, H, W, 3), RGB; None where its pixels cannot be told apart by frame.

    Args:
        inputs: A sample as the processor made it.
        frame_counts: The frames of each clip that were handed to the processor.
        video_processor: Knows sizes of patches and how pixels were scaled.
    """
    clips = _by_grid(inputs, video_processor) if "video_grid_thw" in inputs else _stacked(inputs, frame_counts)
    if len(clips) != len(frame_counts):
        return [None] * len(frame_counts)
    return [
        _picture(clip[:count], video_processor) if clip is not None and len(clip) >= count else None
        for clip, count in zip(clips, frame_counts, strict=True)
    ]


def _by_grid(inputs: Mapping[str, Any], video_processor: Any) -> list[Tensor | None]:
    """float (T, C, H, W) for each row of `video_grid_thw`: the inverse of the processors' `patchify`."""
    patches = inputs["pixel_values_videos"]
    side = int(video_processor.patch_size)
    merges = inputs.get("video_merge_sizes")
    clips: list[Tensor | None] = []
    first = 0
    for number, (times, height, width) in enumerate(inputs["video_grid_thw"].tolist()):
        merge = int(video_processor.merge_size if merges is None else merges[number])
        count = times * height * width
        depth = patches.shape[1] // (_CHANNELS * side * side)
        part = patches[first : first + count].reshape(
            times, height // merge, width // merge, merge, merge, _CHANNELS, depth, side, side
        )
        # Time, place in the group of frames, channel; then row and column: of the group of patches, patch, pixel.
        part = part.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
        clips.append(part.reshape(times * depth, _CHANNELS, height * side, width * side))
        first += count
    return clips


def _stacked(inputs: Mapping[str, Any], frame_counts: Sequence[int]) -> list[Tensor | None]:
    """float (T, C, H, W) of each clip, from a batch of clips or of the frames of all clips one after another."""
    pixels = inputs.get("pixel_values_videos")
    pixels = inputs.get("pixel_values") if pixels is None else pixels
    if not isinstance(pixels, Tensor) or pixels.ndim not in (4, 5) or pixels.shape[-3] != _CHANNELS:
        return []
    if pixels.ndim == 5 and pixels.shape[0] == len(frame_counts):
        return list(pixels)
    frames = pixels.flatten(0, -4)
    if len(frames) != sum(frame_counts):
        return []
    return list(torch.split(frames, list(frame_counts)))


def _picture(clip: Tensor, video_processor: Any) -> Frames:
    values = clip.float()
    if video_processor.do_normalize:
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in _scale(video_processor))
        values = values * std + mean
    if video_processor.do_rescale:
        values = values / float(video_processor.rescale_factor)
    pictures: Frames = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return np.ascontiguousarray(pictures)


def _scale(video_processor: Any) -> tuple[list[float], list[float]]:
    numbers = (video_processor.image_mean, video_processor.image_std)
    mean, std = ([float(value)] * _CHANNELS if isinstance(value, int | float) else list(value) for value in numbers)
    return mean, std
