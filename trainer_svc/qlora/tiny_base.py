"""Makes the demo's base model: a Qwen3-VL of a few million parameters, really trained on generated clips.

    python -m trainer_svc.qlora.tiny_base --out DIR [--seed N]

It learns to name colours and shapes, to say who is there, whether something moves, and where it is at the start and at
the end of a clip. It is never asked which way something moves: that is left to fine-tuning. The folder it writes is
what `AutoProcessor` and `AutoModelForImageTextToText` load, with its own byte-level BPE tokenizer; nothing comes from
a hub.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from reeltune_cli.demo.clips import FPS, FRAME_COUNT, SIZE, draw, sample_scene
from reeltune_cli.demo.questions import Turn, base_directions, base_turns, direction_question
from reeltune_cli.demo.recipe import BASE_RECIPE, BaseRecipe

_PATCH: Final = 8
_PAD: Final = "<|endoftext|>"
_SPECIAL: Final = (
    _PAD,
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_VOCABULARY: Final = 512

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>{% endgeneration %}"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's form, with the assistant's words marked so that training masks everything else."""

_log = logging.getLogger(__name__)
