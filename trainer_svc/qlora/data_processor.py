"""From a sample and its decoded clips to tensors: chat template, frames with true times, labels, batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from trainer_svc.qlora.chat_labels import render, render_prompt, token_mask
from trainer_svc.qlora.dataset_rows import Sample, Turn
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.frame_decoder import DecodedFrames, Frames
from trainer_svc.qlora.model_pictures import seen_pictures

IGNORED = -100
"""The label of tokens that are not learned."""
_ALONG_SEQUENCE = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
_SHOWN = 20
_DROPPED = ("offset_mapping", "text_replacement_offsets", "video_metadata")


@dataclass(frozen=True, slots=True)
class Visual:
    """A sample's clips on their way through an encoder that is run apart: see `encoder_cache`."""

    key: str
    """What its outputs are kept under; empty when they are not."""
    pixels: dict[str, Any] | None
    """What the processor made of the sample; None when the outputs are known."""
    features: dict[str, Tensor] | None
    """The encoder's outputs."""


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One sample as the model's processor made it, batch dimension 1."""

    sample_id: str
    inputs: dict[str, Any]
    labels: Tensor
    """int64 (1, L): the token where it is the assistant's, else IGNORED."""
    text: str = ""
    """The conversation as the chat template renders it, each clip one placeholder."""
    visual: Visual | None = None
    """Its clips, where they are not among the inputs."""

    @property
    def length(self) -> int:
        return int(self.labels.shape[1])


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples padded to one length."""

    sample_ids: tuple[str, ...]
    inputs: dict[str, Any]
    labels: Tensor
    """int64 (B, L)."""
    tokens: int
    """Without padding."""
    target_tokens: int
    """Labels that are learned: those a token before them predicts."""
    visuals: tuple[Visual, ...] = ()
    """The clips of its samples in order, where they are not among the inputs."""


class DataProcessor:
    """Turns samples into tensors with one model's processor. Not thread-safe: use from one thread."""

    def __init__(self, processor: Any, *, max_tokens: int = 0) -> None:
        """`max_tokens`: longer samples are refused, never cut; 0: no limit."""
        self._processor = processor
        self._max_tokens = max_tokens
        tokenizer = processor.tokenizer
        self.pad_token_id = int(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
        self._control_tokens = _control_tokens(processor)
        self.visual_token_ids = _visual_token_ids(processor)
        """The tokens that stand for frames; some families show clips as pictures."""

    def encode(self, sample: Sample, clips: Sequence[DecodedFrames]) -> EncodedSample:
        """A training sample with labels. Raises `BadDataError` naming the sample, or `ModelRefusedError`."""
        whose = f"sample {sample.sample_id}"
        self._refuse_control_tokens(sample.turns, whose)
        rendered = render(self._processor, sample.turns, whose)
        text = rendered.text
        outputs = self._process(text, clips, whose)
        replacements = outputs.get("text_replacement_offsets") or [[]]
        mask = token_mask(_rows(outputs["offset_mapping"])[0], replacements[0], rendered.spans)
        inputs = {key: value for key, value in outputs.items() if key not in _DROPPED}
        labels = torch.where(torch.tensor([mask]), inputs["input_ids"], IGNORED)
        if not int((labels[:, 1:] != IGNORED).sum()):
            raise BadDataError(f"{whose}: no token of it is the assistant's", "check the model's chat template")
        self._check_length(labels.shape[1], whose)
        return EncodedSample(sample.sample_id, inputs, labels, text)

    def encode_prompt(self, turns: Sequence[Turn], clips: Sequence[DecodedFrames]) -> dict[str, Any]:
        """Inputs for generation: the conversation up to the assistant's answer. Raises what `encode` raises."""
        self._refuse_control_tokens(turns, "the prompt")
        outputs = self._process(render_prompt(self._processor, turns, "the prompt"), clips, "the prompt")
        inputs = {key: value for key, value in outputs.items() if key not in _DROPPED}
        self._check_length(inputs["input_ids"].shape[1], "the prompt")
        return inputs

    def text_of(self, ids: Sequence[int]) -> str:
        """Tokens as text, control tokens included."""
        tokenizer = self._processor.tokenizer
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def check_words(self, samples: Iterable[Sample]) -> None:
        """Raises `BadDataError` that lists the samples which are too long by their words alone, whatever their clips
        take: known before the first step, and without decoding."""
        problems = []
        for sample in samples:
            words = "".join(part for turn in sample.turns for part in turn.parts if isinstance(part, str))
            # A token stands for one byte or more: few texts need to be looked at closely.
            if self._max_tokens and len(words.encode()) > self._max_tokens:
                count = len(self._processor.tokenizer(words, add_special_tokens=False)["input_ids"])
                if count > self._max_tokens:
                    problems.append(f"{sample.sample_id} ({count})")
        if problems:
            more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise BadDataError(
                f"{len(problems)} samples have more tokens of text alone than the limit of {self._max_tokens}: "
                f"{', '.join(problems[:_SHOWN])}{more}",
                "shorten their texts or remove their rows: nothing is cut",
            )

    def frame_sizes(self, inputs: dict[str, Any], clips: int) -> list[tuple[int, int]]:
        """(width, height) in pixels that the processor brought each clip's frames to; zeros where it does not say."""
        if (grids := inputs.get("video_grid_thw")) is not None:
            patch = int(self._processor.video_processor.patch_size)
            return [(int(width) * patch, int(height) * patch) for _, height, width in grids]
        for name in ("pixel_values_videos", "pixel_values"):
            pixels = inputs.get(name)
            if isinstance(pixels, Tensor) and pixels.ndim >= 4:
                return [(int(pixels.shape[-1]), int(pixels.shape[-2]))] * clips
        return [(0, 0)] * clips

    def seen_pictures(self, inputs: dict[str, Any], frame_counts: Sequence[int]) -> list[Frames | None]:
        """What the model sees of each clip; see `model_pictures.seen_pictures`."""
        return seen_pictures(inputs, frame_counts, self._processor.video_processor)

    def collate_alike(self, samples: Sequence[EncodedSample]) -> list[Batch]:
        """The samples in as few batches as their clips allow: some families stack clips, which must have equal shapes
        then. Their losses are sums, so that it makes no difference to what is learned."""
        alike: dict[Any, list[EncodedSample]] = {}
        for sample in samples:
            alike.setdefault(_clip_shapes(sample), []).append(sample)
        return [self.collate(group) for group in alike.values()]

    def collate(self, samples: Sequence[EncodedSample]) -> Batch:
        """Samples with clips of equal shapes, padded on the right to the longest; videos one after another."""
        length = max(sample.length for sample in samples)
        inputs: dict[str, Any] = {}
        for key in samples[0].inputs:
            values = [sample.inputs[key] for sample in samples]
            if key in _ALONG_SEQUENCE:
                filler = self.pad_token_id if key == "input_ids" else 0
                inputs[key] = torch.cat([_padded(value, length, filler) for value in values])
            else:
                inputs[key] = _joined(values)
        labels = torch.cat([_padded(sample.labels, length, IGNORED) for sample in samples])
        return Batch(
            tuple(sample.sample_id for sample in samples),
            inputs,
            labels,
            tokens=sum(sample.length for sample in samples),
            target_tokens=int((labels[:, 1:] != IGNORED).sum()),
            visuals=tuple(sample.visual for sample in samples if sample.visual is not None),
        )

    def _process(self, text: str, clips: Sequence[DecodedFrames], whose: str) -> dict[str, Any]:
        options: dict[str, Any] = {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
        bos = self._processor.tokenizer.bos_token
        if bos is not None and text.startswith(bos):
            options["add_special_tokens"] = False
        if clips:
            least = int(getattr(self._processor.video_processor, "temporal_patch_size", None) or 1)
            clips = [_with_least(clip, least) for clip in clips]
            # Frames are chosen already; without the metadata the processor would make up their times.
            options |= {"videos": [clip.frames for clip in clips], "do_sample_frames": False}
            options["video_metadata"] = [_metadata(clip) for clip in clips]
        try:
            return dict(self._processor(text=[text], return_tensors="pt", **options))
        except ValueError as error:
            raise BadDataError(
                f"{whose}: the model's processor refuses it: {error}", "check frames and pixels"
            ) from error

    def _refuse_control_tokens(self, turns: Sequence[Turn], whose: str) -> None:
        for text in (part for turn in turns for part in turn.parts if isinstance(part, str)):
            for token in self._control_tokens:
                if token in text:
                    raise BadDataError(f"{whose}: its text holds the model's control token {token}", "remove it")

    def _check_length(self, length: int, whose: str) -> None:
        if self._max_tokens and length > self._max_tokens:
            raise BadDataError(
                f"{whose}: {length} tokens, more than the limit of {self._max_tokens}",
                "lower sampling.max_frames or sampling.max_pixels, or shorten the text: clips are never cut",
            )


def on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The inputs with their tensors on `device`."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}


def _with_least(clip: DecodedFrames, count: int) -> DecodedFrames:
    """The clip with its last frame, and that frame's time, as often as `count` frames need: some processors refuse less
    than their models put into one patch, and all fill up what is over with it themselves."""
    missing = count - len(clip.frames)
    if missing <= 0:
        return clip
    frames = np.concatenate([clip.frames, np.repeat(clip.frames[-1:], missing, axis=0)])
    return replace(clip, frames=frames, timestamps=clip.timestamps + clip.timestamps[-1:] * missing)


def _metadata(clip: DecodedFrames) -> VideoMetadata:
    """What processors take times from: index / fps is the frame's true time, also in clips of uneven frame rate.

    Qwen2.5-VL's takes no frame's time but the share of all frames that are shown, and makes one distance of it: that is
    what the model was trained with, and what it is given wherever else the adapter is used.
    """
    _, height, width, _ = clip.frames.shape
    indices = [_near_whole(time * clip.fps) for time in clip.timestamps]
    return VideoMetadata(
        total_num_frames=clip.frames_in_range,
        fps=clip.fps,
        frames_indices=indices,
        width=width,
        height=height,
        duration=clip.duration,
    )


def _near_whole(value: float) -> Any:
    nearest = round(value)
    return nearest if abs(value - nearest) < 2e-3 else value


def _control_tokens(processor: Any) -> tuple[str, ...]:
    named = {getattr(processor, name, None) for name in ("video_token", "image_token", "audio_token")}
    tokens = {*processor.tokenizer.all_special_tokens, *(token for token in named if isinstance(token, str))}
    return tuple(sorted(token for token in tokens if len(token) > 1))


def _visual_token_ids(processor: Any) -> frozenset[int]:
    named = (getattr(processor, name, None) for name in ("video_token", "image_token"))
    tokens = [token for token in named if isinstance(token, str)]
    ids = processor.tokenizer.convert_tokens_to_ids(tokens)
    return frozenset(token for token in ids if token is not None)


def _rows(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _padded(value: Tensor, length: int, filler: int) -> Tensor:
    return torch.nn.functional.pad(value, (0, length - value.shape[1]), value=filler)


def _joined(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Tensor):
        return [entry for value in values for entry in value]
    return torch.cat(list(values))


def _clip_shapes(sample: EncodedSample) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(
        (key, tuple(value.shape[1:]))
        for key, value in sorted(sample.inputs.items())
        if isinstance(value, Tensor) and key not in _ALONG_SEQUENCE
    )
