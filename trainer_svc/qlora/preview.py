"""What training would feed a model for one sample, made by the code that trains: frames, rendered text, tokens, labels.

`encode_sample` is what `BatchStream` does for a sample of a batch; the rest only describes its result.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer_svc.qlora.data_processor import IGNORED, DataProcessor, EncodedSample
from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.frame_decoder import DecodedFrames, Frames
from trainer_svc.qlora.frame_sampling import FrameRequest, scaled_size
from trainer_svc.qlora.spec import SamplingSpec

MAX_FRAME_BYTES = 3 << 19
"""Of all pictures of one preview together: a message of the mesh takes 4 MiB."""
MAX_CHARACTERS = 150_000
"""Of the rendered text, and again of all spans together."""
MAX_IDS = 150_000
_SHOWN_PIXELS = 512 * 512
_QUALITIES = (92, 80, 60, 40)

Decode = Callable[[Path, FrameRequest], tuple[DecodedFrames, str]]
"""Returns the frames of a clip, and the name of the decoder that gave them."""


@dataclass(frozen=True, slots=True)
class SampleInputs:
    """A sample as it goes into a batch."""

    encoded: EncodedSample
    clips: tuple[DecodedFrames, ...]
    decoders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens in a row that are alike: of one kind, and all learned or all not."""

    is_video: bool
    is_label: bool
    count: int
    ids: tuple[int, ...]
    """Of a video span the one id that is repeated; all of them elsewhere."""
    text: str
    """Empty for a video span."""


def encode_sample(processor: DataProcessor, sample: Sample, sampling: SamplingSpec, decode: Decode) -> SampleInputs:
    """What training makes of a sample.

    Raises `BadClipError`, `BadDataError`, `ModelRefusedError` as training does.
    """
    decoded = [decode(clip.path, clip.frame_request(sampling)) for clip in sample.clips]
    frames = [found for found, _ in decoded]
    return SampleInputs(processor.encode(sample, frames), tuple(frames), tuple(name for _, name in decoded))


def describe(
    processor: DataProcessor, inputs: SampleInputs, *, max_frames: int, token_limit: int
) -> tuple[dict[str, Any], bool]:
    """(a preview as JSON values but for the pictures, which are bytes; whether texts had to be cut).

    Args:
        processor: What encoded the sample.
        inputs: The encoded sample with its frames.
        max_frames: Most pictures, of all clips together; they are spread evenly over each clip's frames.
        token_limit: Longest sequence that the model takes; 0 for unknown.
    """
    ids = [int(token) for token in inputs.encoded.inputs["input_ids"][0]]
    learned = [int(label) != IGNORED for label in inputs.encoded.labels[0]]
    spans = list(token_spans(processor, ids, learned))
    shown, cut = _within_bounds(spans)
    text = inputs.encoded.text
    return {
        "clips": _describe_clips(processor, inputs, max_frames),
        "text": text[:MAX_CHARACTERS],
        "tokens": len(ids),
        "video_tokens": sum(span.count for span in spans if span.is_video),
        # The first token of all has none before it that could predict it.
        "label_tokens": sum(learned[1:]),
        "token_limit": token_limit,
        "spans": [
            {"is_video": s.is_video, "is_label": s.is_label, "count": s.count, "ids": list(s.ids), "text": s.text}
            for s in shown
        ],
    }, cut or len(text) > MAX_CHARACTERS


def token_spans(processor: DataProcessor, ids: Sequence[int], learned: Sequence[bool]) -> Iterator[TokenSpan]:
    """The sequence in spans, in order; put together again they are the sequence."""
    visual = processor.visual_token_ids

    def kind(position: int) -> tuple[int, bool]:
        return (ids[position] if ids[position] in visual else -1, learned[position])

    for (placeholder, is_label), positions in groupby(range(len(ids)), kind):
        members = [ids[position] for position in positions]
        if placeholder >= 0:
            yield TokenSpan(True, is_label, len(members), (placeholder,), "")
        else:
            yield TokenSpan(False, is_label, len(members), tuple(members), processor.text_of(members))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0 to `count` - 1, spread evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, most)}) if most > 1 else [0] * most


def encode_picture(frame: Frames, budget: int) -> tuple[bytes, int, int]:
    """(JPEG of at most about `budget` bytes, its width, its height), smaller and coarser only as far as needed.

    `frame` is uint8 (H, W, 3), RGB.
    """
    picture = Image.fromarray(np.ascontiguousarray(frame))
    height, width = scaled_size(picture.height, picture.width, _SHOWN_PIXELS)
    while True:
        resized = picture if (width, height) == picture.size else picture.resize((width, height))
        for quality in _QUALITIES:
            target = io.BytesIO()
            resized.save(target, "JPEG", quality=quality, subsampling=0 if quality == _QUALITIES[0] else 2)
            if target.tell() <= budget:
                return target.getvalue(), width, height
        if min(width, height) < 16:
            return target.getvalue(), width, height
        width, height = width // 2, height // 2


def _describe_clips(processor: DataProcessor, inputs: SampleInputs, max_frames: int) -> list[dict[str, Any]]:
    sizes = processor.frame_sizes(inputs.encoded.inputs, len(inputs.clips))
    counts = [len(clip.frames) for clip in inputs.clips]
    seen = processor.seen_pictures(inputs.encoded.inputs, counts)
    shown = _share(max_frames, counts)
    budget = MAX_FRAME_BYTES // max(1, sum(shown))
    return [
        {
            "frame_count": len(clip.frames),
            "clip_frame_count": clip.frame_count,
            "decoder": decoder,
            "width": int(clip.frames.shape[2]),
            "height": int(clip.frames.shape[1]),
            "model_width": width,
            "model_height": height,
            "as_seen": pictures is not None,
            "frames": [
                _describe_frame(clip, clip.frames if pictures is None else pictures, position, budget)
                for position in spread(len(clip.frames), most)
            ],
        }
        for clip, pictures, decoder, (width, height), most in zip(
            inputs.clips, seen, inputs.decoders, sizes, shown, strict=True
        )
    ]


def _describe_frame(clip: DecodedFrames, pictures: Frames, position: int, budget: int) -> dict[str, Any]:
    jpeg, width, height = encode_picture(pictures[position], budget)
    return {
        "position": position,
        "index": clip.indices[position],
        "seconds": clip.timestamps[position],
        "width": width,
        "height": height,
        "jpeg": jpeg,
    }


def _share(most: int, counts: Sequence[int]) -> list[int]:
    """How many pictures each clip gets: one after the other, as long as there are some left to give."""
    shares = [0] * len(counts)
    while most > 0 and any(share < count for share, count in zip(shares, counts, strict=True)):
        for place, count in enumerate(counts):
            if shares[place] < count and most > 0:
                shares[place] += 1
                most -= 1
    return shares


def _within_bounds(spans: Sequence[TokenSpan]) -> tuple[list[TokenSpan], bool]:
    """(the spans with as much text and as many ids as a message takes, whether any was cut)."""
    characters, ids, cut, shown = MAX_CHARACTERS, MAX_IDS, False, []
    for span in spans:
        kept = TokenSpan(span.is_video, span.is_label, span.count, span.ids[:ids], span.text[:characters])
        cut = cut or kept != span
        characters, ids = characters - len(kept.text), ids - len(kept.ids)
        shown.append(kept)
    return shown, cut
