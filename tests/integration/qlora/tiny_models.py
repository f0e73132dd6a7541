"""Tiny random models of real architectures, saved as a user's folder would be; and real H.264 clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

SPECIAL = (
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TURN = (
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>"
)
TEMPLATE_WITH_MARKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}"
    + _TURN
    + "{% endgeneration %}{% else %}"
    + _TURN
    + "{% endif %}"
    "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE_WITHOUT_MARKS = TEMPLATE_WITH_MARKS.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def byte_tokenizer(*marks: str, names: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, the control tokens of Qwen's chat format, and `marks`; `names` are tokens that the tokenizer
    has as attributes."""
    special = list(dict.fromkeys((*SPECIAL, *marks)))
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        **({"extra_special_tokens": names} if names else {}),
    )


def save_qwen3_vl(folder: Path, *, template: str = TEMPLATE_WITH_MARKS) -> Path:
    """0.25 M parameters, in the architecture of Qwen3-VL."""
    tokenizer = byte_tokenizer()
    config = Qwen3VLConfig(
        text_config={
            **_text_size(tokenizer),
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 8,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_token_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, merge_size=2),
        video_processor=Qwen3VLVideoProcessor(
            patch_size=8,
            merge_size=2,
            size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32 * 64},
            cap_pixels_per_frame=False,
        ),
        tokenizer=tokenizer,
        chat_template=template,
    )
    return save_tiny(folder, Qwen3VLForConditionalGeneration, config, processor)


def save_qwen2_5_vl(folder: Path, *, template: str = TEMPLATE_WITHOUT_MARKS) -> Path:
    """The architecture of Qwen2.5-VL: window attention in the tower, seconds per temporal patch."""
    tokenizer = byte_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            **_text_size(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 8,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        **_token_ids(tokenizer),
    )
    sizes = {"min_pixels": 16 * 16, "max_pixels": 32 * 32}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, merge_size=2, **sizes),
        video_processor=Qwen2VLVideoProcessor(patch_size=8, merge_size=2, **sizes),
        tokenizer=tokenizer,
        chat_template=template,
    )
    return save_tiny(folder, Qwen2_5_VLForConditionalGeneration, config, processor)


def write_clip(
    file: Path, *, colour: tuple[int, int, int] = (255, 0, 0), frames: int = 12, rate: int = 6, size: int = 32
) -> Path:
    """An H.264 clip of a bar of `colour` that moves to the right."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "preset": "veryfast"}
        for index in range(frames):
            picture: npt.NDArray[np.uint8] = np.zeros((size, size, 3), np.uint8)
            left = index * 2 % size
            picture[:, left : left + 8] = colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file


def write_dataset(folder: Path, *, samples: int = 8, split: str = "train") -> Path:
    """Clips of a red or blue bar, each with the question for its colour."""
    rows = []
    for index in range(samples):
        name, colour = (("red", (255, 0, 0)), ("blue", (0, 0, 255)))[index % 2]
        write_clip(folder / "clips" / f"{index}.mp4", colour=colour, frames=10 + index)
        rows.append(row(f"s{index}", f"{index}.mp4", "colour?", name, split=split))
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder


def row(sample_id: str, uri: str, question: str, answer: str, *, split: str = "train", **clip: Any) -> dict[str, Any]:
    """One canonical row with one clip, one question and one answer."""
    return {
        "sample_id": sample_id,
        "split": split,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "video", "uri": uri, **clip}, {"type": "text", "text": question}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
    }


def _text_size(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    return {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def save_tiny(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    """A random model of that architecture and its processor, the same at every call."""
    torch.manual_seed(0)
    model = kind(config)
    # The head is never trained; at its random size no hidden state could make any token likely.
    model.lm_head.weight.data.mul_(10)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
