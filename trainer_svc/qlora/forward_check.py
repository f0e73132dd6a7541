"""One forward step of a base model as a job would begin with: NF4, a tiny clip, a question and an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.errors import ModelRefusedError
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import QuantizationSpec

_FRAMES, _SIZE, _FPS = 4, 64, 2.0
_CLIP = Clip(Path("generated.mp4"))
_SAMPLE = Sample(
    "forward-check", "train", (Turn("user", (_CLIP, "What moves?")), Turn("assistant", ("A bar moves to the right.",)))
)


def forward_step(folder: Path) -> dict[str, Any]:
    """What the step came to: `loss` of a learned token, `tokens`, `parameters`. Loads, audits and runs on the CPU.

    Raises the errors of `load_base_model` and `DataProcessor.encode`; `ModelRefusedError` for a loss that is no number.
    """
    base = load_base_model(folder, QuantizationSpec(), torch.device("cpu"))
    base.model.eval()
    processor = DataProcessor(base.processor, max_tokens=base.max_positions)
    batch = processor.collate([processor.encode(_SAMPLE, [generated_clip()])])
    with torch.no_grad():
        loss = float(summed_loss(base.model, batch, base.device)) / batch.target_tokens
    if not np.isfinite(loss):
        raise ModelRefusedError(f"its first forward step gives a loss of {loss}", "upload the original weights again")
    return {"loss": loss, "tokens": batch.tokens, "parameters": base.audit.parameters}


def generated_clip() -> DecodedFrames:
    """Four frames of a bar that moves to the right, two a second."""
    frames = np.zeros((_FRAMES, _SIZE, _SIZE, 3), np.uint8)
    for number in range(_FRAMES):
        frames[number, :, number * 12 : number * 12 + 16] = (255, 64, 0)
    times = tuple(number / _FPS for number in range(_FRAMES))
    return DecodedFrames(frames, times, _FRAMES, _FRAMES, _FPS, _FRAMES / _FPS, tuple(range(_FRAMES)))
