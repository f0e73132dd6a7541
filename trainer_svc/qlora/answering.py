"""What base and tuned model answer to a conversation, and how likely they find the reference."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_svc.qlora.data_processor import DataProcessor, on_device
from trainer_svc.qlora.dataset_rows import Sample, Turn
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.generation import generate_tokens, text_of
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.lookout import Lookout
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.model_loader import BaseModel


@dataclass(frozen=True, slots=True)
class Exam:
    """A row as a question: the conversation up to its last answer, and that answer."""

    turns: tuple[Turn, ...]
    question: str
    """The words of the last user's turn."""
    reference: str

    @classmethod
    def of(cls, sample: Sample) -> Exam:
        """Raises `BadDataError` for a conversation in which nobody is asked before the last answer."""
        last = max(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
        before = sample.turns[:last]
        if not any(turn.role == "user" for turn in before):
            raise BadDataError(f"sample {sample.sample_id}: nothing is asked before its last answer", "remove the row")
        asked = next(turn for turn in reversed(before) if turn.role == "user")
        return cls(before, _words(asked), _words(sample.turns[last]))


class Answerer:
    """One base model and one adapter beside it; from one thread."""

    def __init__(self, base: BaseModel, adapter: Path, *, max_tokens: int) -> None:
        """Raises `BadDataError` for a folder that is no adapter of this base model."""
        self._base = base
        self._adapter = str(adapter)
        self._processor = DataProcessor(base.processor, max_tokens=max_tokens)
        self._adapters = AdapterSet(base, 1, max_bytes=sys.maxsize)
        base.model.eval()
        with self._adapters.active(self._adapter):
            pass

    def answer(
        self,
        exam: Exam,
        frames: Sequence[DecodedFrames],
        *,
        tuned: bool,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: str = "",
        lookout: Lookout,
    ) -> str:
        """The answer without special tokens. `seed`: with a temperature, equal seeds draw equal tokens.

        Raises `BrokenOffError` between two tokens when the run is to stop.
        """
        inputs = on_device(self._processor.encode_prompt(exam.turns, frames), self._base.device)
        with self._adapters.active(self._adapter if tuned else None) as model, torch.inference_mode():
            tokens = generate_tokens(
                model,
                self._base,
                inputs,
                pad_token_id=self._processor.pad_token_id,
                max_new_tokens=max_new_tokens,
                is_cancelled=lookout.hears_stop,
                temperature=temperature,
                seed=int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"),
            )
        lookout.look_up()
        return text_of(self._base.processor.tokenizer, tokens).strip()

    def loss(self, sample: Sample, frames: Sequence[DecodedFrames], *, tuned: bool) -> tuple[float, int]:
        """(sum over the assistant's tokens of -log p, how many they are), as in training."""
        batch = self._processor.collate([self._processor.encode(sample, frames)])
        with self._adapters.active(self._adapter if tuned else None) as model, torch.no_grad():
            return float(summed_loss(model, batch, self._base.device)), batch.target_tokens


def _words(turn: Turn) -> str:
    return "".join(part for part in turn.parts if isinstance(part, str)).strip()
