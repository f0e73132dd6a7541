"""LLaVA, Qwen's fine-tuning scripts and NVIDIA TAO: one `video` and ShareGPT's turns.

    {"video": "videos/005.mp4",
     "conversations": [{"from": "human", "value": "<video>Q"}, {"from": "gpt", "value": "A"}]}

Several clips are a list under `video`. Some files mark a clip by `<image>`. The folder that paths count from is given
apart, as `media_root` in `dataset_info.json`. A list of such objects is a packed sample: each is a row here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from catalog_svc.domain.formats.format import CannotHold, Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.sharegpt import SHAREGPT_KEYS
from catalog_svc.domain.formats.tagged_chat import VIDEO_TAG, read_chat, write_chat
from catalog_svc.domain.sample import AnnotationFormat, Role, Sample

_KEYS = replace(SHAREGPT_KEYS, clips="video", clip_tags=(VIDEO_TAG, "<image>"))


def _fits(row: RowValue) -> bool:
    return "conversations" in row and ("video" in row or "image" in row) and "videos" not in row


def _write(sample: Sample) -> dict[str, Any]:
    if sample.messages[0].role is Role.SYSTEM:
        raise CannotHold("a system message; LLaVA's trainers would drop it", "messages[0]")
    row = write_chat(sample, _KEYS)
    if len(row["video"]) == 1:
        (row["video"],) = row["video"]
    return row


LLAVA = Format(
    AnnotationFormat.LLAVA,
    shape="video, and conversations of from and value",
    fits=_fits,
    read=partial(read_chat, keys=_KEYS),
    writer=Writer(Layout.JSON_ARRAY, _write),
)
