"""One forward step of a base model as a job would begin with: NF4, a tiny clip, a question and an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer_svc.qlora.data_processor import IGNORED, DataProcessor, EncodedSample
from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.errors import ModelRefusedError
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import QuantizationSpec

_FRAMES, _SIZE, _FPS = 4, 64, 2.0
_LAST = 2
"""Tokens of an answer: the one that ends it, and perhaps a line break."""
_CLIP = Clip(Path("generated.mp4"))
_SAMPLE = Sample(
    "forward-check", "train", (Turn("user", (_CLIP, "What moves?")), Turn("assistant", ("A bar moves to the right.",)))
)


def forward_step(folder: Path) -> dict[str, Any]:
    """What the step came to: `loss` of a learned token, `tokens`, `parameters`. Loads, audits and runs on the CPU.

    Raises the errors of `load_base_model` and `DataProcessor.encode`; `ModelRefusedError` for a loss that is no number,
    and for an answer that is not learned as the model is asked for one.
    """
    base = load_base_model(folder, QuantizationSpec(), torch.device("cpu"))
    base.model.eval()
    processor = DataProcessor(base.processor, max_tokens=base.max_positions)
    encoded = processor.encode(_SAMPLE, [generated_clip()])
    _check_answer(processor, encoded, base.end_tokens)
    batch = processor.collate([encoded])
    with torch.no_grad():
        loss = float(summed_loss(base.model, batch, base.device)) / batch.target_tokens
    if not np.isfinite(loss):
        raise ModelRefusedError(f"its first forward step gives a loss of {loss}", "upload the original weights again")
    return {"loss": loss, "tokens": batch.tokens, "parameters": base.audit.parameters}


def _check_answer(processor: DataProcessor, encoded: EncodedSample, end_tokens: list[int]) -> None:
    """What is learned must follow the prompt that a question ends with, and end as generation does."""
    prompt = processor.encode_prompt(_SAMPLE.turns[:1], [generated_clip()])["input_ids"][0].tolist()
    ids, labels = encoded.inputs["input_ids"][0], encoded.labels[0]
    # As text: where prompt and answer meet, a tokenizer may make one token of both.
    if not processor.text_of(ids.tolist()).startswith(processor.text_of(prompt)):
        raise ModelRefusedError(
            "its answers are learned after another text than the model is prompted with when it is asked",
            "have its chat_template.jinja open an answer as add_generation_prompt does",
        )
    last = labels[labels != IGNORED][-_LAST:].tolist()
    if not any(token in end_tokens for token in last):
        raise ModelRefusedError(
            f"its chat template ends an answer with {processor.text_of(last)!r}, which ends none when the "
            "model is asked: a tuned model would never stop",
            "name the token that ends a turn in generation_config.json as eos_token_id, or mend chat_template.jinja",
        )


def generated_clip() -> DecodedFrames:
    """Four frames of a bar that moves to the right, two a second."""
    frames = np.zeros((_FRAMES, _SIZE, _SIZE, 3), np.uint8)
    for number in range(_FRAMES):
        frames[number, :, number * 12 : number * 12 + 16] = (255, 64, 0)
    times = tuple(number / _FPS for number in range(_FRAMES))
    return DecodedFrames(frames, times, _FRAMES, _FRAMES, _FPS, _FRAMES / _FPS, tuple(range(_FRAMES)))
