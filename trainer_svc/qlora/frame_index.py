"""Where each frame's tokens are in the forward pass under way: what a layer needs to look along time.

A hook on the inner model reads it from the pass's own inputs and keeps it until the next pass, so that layers that are
computed again in the backward pass (checkpointing) find it unchanged. One forward pass for each backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_svc.qlora.errors import ModelAuditError
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.spec import TemporalGroup


class FrameIndex:
    """The frames of the clips in the current pass, by part of the model."""

    def __init__(self, family: ModelFamily, config: Any) -> None:
        """`config`: the model's own, for its video token and how many patches it merges into one."""
        self.family = family
        self._config = config
        self._frames: dict[str, list[Tensor]] = {}
        self._stacked: tuple[int, int] | None = None
        self._device = torch.device("cpu")

    def watch(self, model: nn.Module) -> RemovableHandle:
        """Reads the inputs of every pass of `model`, the one with the head, from now on."""
        inner = model.model
        assert isinstance(inner, nn.Module)
        # `generate` would run the encoder by itself, before the pass whose inputs tell the frames, and then leave those
        # inputs out: no layer would mix.
        model._supports_mm_encoder_outputs = _never  # type: ignore[assignment]
        return inner.register_forward_pre_hook(lambda _, __, inputs: self._read(inputs), with_kwargs=True)

    def of(self, group: TemporalGroup, tokens: int) -> list[Tensor]:
        """int64 (V, T, P) each: V clips of T frames of P tokens, as indices into the `tokens` tokens of a layer of
        `group`; empty in a pass without clips.

        Raises `ModelAuditError` for another number of tokens than the clips should have made: to mix the wrong
        ones would go unnoticed.
        """
        if group == "vision" and self._stacked is not None:
            clips, times = self._stacked
            if tokens % (clips * times):
                raise _unexpected(group, tokens, f"{clips} clips of {times} frames")
            return [torch.arange(tokens, device=self._device).view(clips, times, -1)]
        frames = self._frames.get(group, [])
        made = sum(index.numel() for index in frames)
        if frames and (made != tokens if group == "vision" else made > tokens):
            raise _unexpected(group, tokens, f"{made} tokens of clips")
        return frames

    def _read(self, inputs: Mapping[str, Any]) -> None:
        self._frames, self._stacked = {}, None
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            return  # a later token of an answer: the clips were in the first pass
        layouts = self.family.frame_layouts
        pixels = inputs.get("pixel_values_videos")
        if layouts.get("vision") == "stacked":
            pixels = inputs.get("pixel_values") if pixels is None else pixels
            if pixels is not None:
                self._device = pixels.device
                self._stacked = (pixels.shape[0], pixels.shape[1])
        # Without pixels the outputs of an encoder that was run apart are among the inputs: clips all the same.
        elif layouts.get("vision") == "grid" and inputs.get("video_grid_thw") is not None:
            grid = [tuple(map(int, row)) for row in inputs["video_grid_thw"].tolist()]
            if pixels is not None:
                self._frames["vision"] = _by_shape(_patches(grid, pixels.device))
            ids = inputs.get("input_ids")
            if layouts.get("language") == "grid" and ids is not None:
                self._frames["language"] = _by_shape(self._tokens(grid, ids))

    def _tokens(self, grid: list[tuple[int, ...]], ids: Tensor) -> list[Tensor]:
        """The places of each clip's tokens in the flattened sequences, frame by frame."""
        merged = int(self._config.vision_config.spatial_merge_size) ** 2
        places = (ids.reshape(-1) == self._config.video_token_id).nonzero().squeeze(1)
        sizes = [times * height * width // merged for times, height, width in grid]
        if sum(sizes) != places.numel():
            raise _unexpected("language", places.numel(), f"{sum(sizes)} tokens of clips")
        return [part.view(shape[0], -1) for part, shape in zip(places.split(sizes), grid, strict=True)]


def _never() -> bool:
    return False


def _patches(grid: list[tuple[int, ...]], device: torch.device) -> list[Tensor]:
    clips, first = [], 0
    for times, height, width in grid:
        count = times * height * width
        clips.append(torch.arange(first, first + count, device=device).view(times, height * width))
        first += count
    return clips


def _by_shape(clips: list[Tensor]) -> list[Tensor]:
    """(T, P) each as few (V, T, P): clips of one shape are mixed at once."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for clip in clips:
        shapes.setdefault(tuple(clip.shape), []).append(clip)
    return [torch.stack(alike) for alike in shapes.values()]


def _unexpected(group: str, tokens: int, expected: str) -> ModelAuditError:
    return ModelAuditError(f"a {group} layer got {tokens} tokens and the inputs hold {expected}: frames cannot be told")
