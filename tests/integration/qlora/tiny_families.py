"""The other four architectures, tiny and random, with the processors of their own and chat templates like their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import byte_tokenizer, save_tiny
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor

_SIDE, _PATCH = 32, 8
_PATCHES = (_SIDE // _PATCH) ** 2


def template(video: str) -> str:
    """Qwen's turns, with `video` for a clip."""
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% for c in m['content'] %}{% if c['type'] == 'video' %}"
        + video
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def save_smolvlm(folder: Path) -> Path:
    """Each frame a picture of 4 tokens, its time in words."""
    tokenizer = byte_tokenizer("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config=_vision(image_size=_SIDE, patch_size=_PATCH),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    size = {"longest_edge": _SIDE}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        video_processor=SmolVLMVideoProcessor(
            size=size,
            max_image_size=size,
            video_sampling={"max_frames": 64, "fps": 1, "video_size": {"longest_edge": _SIDE}},
        ),
        tokenizer=tokenizer,
        image_seq_len=_PATCHES // 4,
        chat_template=template("<video>"),
    )
    return save_tiny(folder, SmolVLMForConditionalGeneration, config, processor)


def save_llava_onevision(folder: Path) -> Path:
    """Frames pooled to 4 tokens each, and one that ends the clip."""
    tokenizer = byte_tokenizer("<image>", "<video>")
    image, video = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<video>"))
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            **_vision(image_size=_SIDE, patch_size=_PATCH),
        },
        image_token_id=image,
        image_token_index=image,
        video_token_id=video,
        video_token_index=video,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[_SIDE, _SIDE]],
        tie_word_embeddings=False,
    )
    size = {"height": _SIDE, "width": _SIDE}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[_SIDE, _SIDE]]),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        tokenizer=tokenizer,
        num_image_tokens=_PATCHES,
        vision_feature_select_strategy="full",
        chat_template=template("<video>"),
    )
    return save_tiny(folder, LlavaOnevisionForConditionalGeneration, config, processor)


def save_internvl(folder: Path) -> Path:
    """Each frame a picture of 4 tokens between marks, numbered."""
    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(*marks.values(), names=marks)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config=_vision(image_size=[_SIDE, _SIDE], patch_size=[_PATCH, _PATCH]),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=_PATCHES // 4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    size = {"height": _SIDE, "width": _SIDE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        video_processor=InternVLVideoProcessor(size=size),
        tokenizer=tokenizer,
        image_seq_length=_PATCHES // 4,
        chat_template=template("<video>"),
    )
    return save_tiny(folder, InternVLForConditionalGeneration, config, processor)


def save_video_llama_3(folder: Path) -> Path:
    """Each frame's time in words and its tokens, less those that a frame has in common with the one before."""
    tokenizer = byte_tokenizer("<|image_pad|>", "<|video_pad|>")
    image, video = (tokenizer.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>"))
    config = VideoLlama3Config(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={"model_type": "video_llama_3_vision", **_vision(patch_size=_PATCH)},
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=False,
    )
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * _SIDE * _SIDE}
    processor = VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(patch_size=_PATCH, merge_size=1, size=size),
        video_processor=VideoLlama3VideoProcessor(patch_size=_PATCH, merge_size=2, size=size),
        tokenizer=tokenizer,
        chat_template=template("<|video_pad|>"),
    )
    return save_tiny(folder, VideoLlama3ForConditionalGeneration, config, processor)


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _vision(**sizes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_channels": 3,
        **sizes,
    }
