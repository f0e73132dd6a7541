"""Batches made of generated frames, without any decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer_svc.qlora.data_processor import Batch, DataProcessor
from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.model_loader import BaseModel

CLIP = Clip(Path("generated.mp4"))


def decoded(
    times: Sequence[float] = (0.0, 0.5, 1.0, 1.5), *, fps: float = 2.0, size: int = 32, seed: int = 0
) -> DecodedFrames:
    """Random frames at `times`."""
    frames = np.random.default_rng(seed).integers(0, 255, (len(times), size, size, 3), dtype=np.uint8)
    count = round(times[-1] * fps) + 1
    return DecodedFrames(frames, tuple(times), count, count, fps, count / fps)


def question(sample_id: str = "s1", answer: str = "left") -> Sample:
    return Sample(sample_id, "train", (Turn("user", (CLIP, "what moves?")), Turn("assistant", (answer,))))


def one_batch(base: BaseModel) -> Batch:
    """Two samples of different length."""
    processor = DataProcessor(base.processor)
    return processor.collate(
        [
            processor.encode(question("s1", "left"), [decoded(seed=1)]),
            processor.encode(question("s2", "to the right"), [decoded((0.0, 0.5), seed=2)]),
        ]
    )
