"""What the catalog says of tokens is what the families' own processors make of the frames."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from catalog_svc.domain.clip import DecodedClip
from catalog_svc.domain.sample import VideoPart
from catalog_svc.domain.visual_tokens import VisionFamily, VisualSampling, visual_tokens

PROCESSORS = {VisionFamily.QWEN2_VL: Qwen2VLVideoProcessor, VisionFamily.QWEN3_VL: Qwen3VLVideoProcessor}


@pytest.mark.parametrize("family", VisionFamily)
@pytest.mark.parametrize(
    ("frames", "width", "height"), [(2, 64, 64), (8, 640, 360), (7, 176, 144), (32, 1280, 720), (3, 24, 16)]
)
def test_tokens_are_those_of_the_processor(family: VisionFamily, frames: int, width: int, height: int) -> None:
    processor = PROCESSORS[family]()
    video = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    grid = processor(videos=[video], do_sample_frames=False, return_tensors="pt")["video_grid_thw"][0]
    clip = DecodedClip(frames, frames / 8, 8.0, width, height, "h264")
    counted = visual_tokens(clip, VideoPart("a.mp4"), VisualSampling(family, max_frames=frames))
    assert counted == int(grid.prod()) // processor.merge_size**2
