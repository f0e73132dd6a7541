"""Answers to held-out samples while an adapter is trained; training itself does not notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from trainer_svc.qlora.batch_stream import FrameSource
from trainer_svc.qlora.data_processor import DataProcessor, on_device
from trainer_svc.qlora.dataset_rows import Sample, Turn
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.generation import generate_tokens, text_of
from trainer_svc.qlora.lookout import BrokenOffError, Lookout
from trainer_svc.qlora.messages import Predicted, Progress
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec

_MAX_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Answering:
    """What samples are answered with."""

    model: Any
    """The peft model, in evaluation mode."""
    base: BaseModel
    processor: DataProcessor
    pool: DecodePool
    spec: TrainingSpec

    def answer(self, sample: Sample, loss: float, lookout: Lookout) -> dict[str, Any]:
        """The model's answer to the last question of `sample`, greedily, beside its own. Raises `BrokenOffError` when
        the run is to stop, also between two tokens.

        Random states are left as they were, and no tensor is made in inference mode: what a layer keeps of such a pass
        could not be trained through afterwards.
        """
        asked, expected = _last_question(sample)
        clips = [part for turn in asked for part in turn.parts if not isinstance(part, str)]
        source = FrameSource(self.pool, self.spec.sampling, cache_bytes=0)
        frames = [source.take(clip, lookout.look_up) for clip in clips]
        inputs = on_device(self.processor.encode_prompt(asked, frames), self.base.device)
        most = self.spec.sample_predictions.max_new_tokens
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            new = generate_tokens(
                self.model,
                self.base,
                inputs,
                pad_token_id=self.processor.pad_token_id,
                max_new_tokens=most,
                is_cancelled=lookout.hears_stop,
            )
        lookout.look_up()
        return {
            "sample_id": sample.sample_id,
            "question": _text(asked[-1])[:_MAX_CHARACTERS],
            "expected": _text(expected)[:_MAX_CHARACTERS],
            "generated": text_of(self.base.processor.tokenizer, new)[:_MAX_CHARACTERS],
            "loss": loss,
            "is_cut": len(new) >= most and new[-1] not in self.base.end_tokens,
        }


def tell_predictions(
    run: RunContext,
    own: Lookout,
    answering: Answering,
    samples: Sequence[Sample],
    losses: Mapping[str, float],
    progress: Progress,
    *,
    is_first: bool,
) -> None:
    """Answers the samples with the lowest and those with the highest loss, and reports the answers; of several
    processes the first does, and the others wait for it. Ends early when the run is to stop, with the answers so far.
    `own`: looks up between tokens, and meets no other rank.
    """
    best, worst = choose(losses, answering.spec.sample_predictions.count)
    by_id = {sample.sample_id: sample for sample in samples}
    told = {}
    for name in (*best, *worst):
        # Answers take their time: whoever waits for progress is told that there is some.
        run.report(progress)
        if run.stop_requested() is None and is_first:
            # Where it is heard by the first alone, the others hear of it before the next answer.
            with suppress(BrokenOffError):
                told[name] = answering.answer(by_id[name], losses[name], own)
    found = ([told[name] for name in names if name in told] for names in (best, worst))
    run.report(Predicted(progress.step, *found))


def choose(losses: Mapping[str, float], count: int) -> tuple[list[str], list[str]]:
    """(the samples with the lowest loss, those with the highest); none is in both, and the highest go first."""
    ordered = sorted(losses, key=lambda name: (losses[name], name))
    worst = ordered[::-1][: min(count, (len(ordered) + 1) // 2)]
    return ordered[: min(count, len(ordered) - len(worst))], worst


def _last_question(sample: Sample) -> tuple[tuple[Turn, ...], Turn]:
    last = max(index for index, turn in enumerate(sample.turns) if turn.role == "assistant")
    return sample.turns[:last], sample.turns[last]


def _text(turn: Turn) -> str:
    return "".join(part for part in turn.parts if isinstance(part, str))
