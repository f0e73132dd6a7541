"""The measurement on the held-out samples, which training does not notice."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.best_adapter import note_held_out_loss
from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.errors import NonFiniteHeldOutLossError
from trainer_svc.qlora.lookout import Lookout
from trainer_svc.qlora.messages import Metrics, Progress
from trainer_svc.qlora.sample_predictions import Answering, tell_predictions
from trainer_svc.qlora.training_session import Session


def measure_held_out(session: Session, step: int) -> float | None:
    """Mean loss of a learned token on the held-out samples, in their own order; None when there are none.

    Raises `BrokenOffError` when the run is to stop before all are measured: nothing has changed then. Answers to
    samples, which come after that, only end early.
    """
    if not session.held_out:
        return None
    began, model, ranks = time.perf_counter(), session.state.model, session.ranks
    progress = Progress(step, session.total_steps, session.plan.epoch_of(step - 1), step / session.total_steps)
    processor = DataProcessor(copy.deepcopy(session.base.processor), max_tokens=session.max_tokens)
    with _measuring(model):
        total, targets, losses = _losses(session, processor, Lookout(session.run, progress))
        if not math.isfinite(total):
            raise NonFiniteHeldOutLossError(step, [name for name, loss in losses.items() if not math.isfinite(loss)])
        if session.spec.sample_predictions.count:
            answering = Answering(model, session.base, processor, session.pool, session.spec)
            own = Lookout(session.own, progress)
            tell_predictions(session.run, own, answering, session.held_out, losses, progress, is_first=ranks.is_first)
    loss = total / targets
    session.state.measured |= {"eval_loss": loss, "eval_loss_of_step": step}
    note_held_out_loss(session.state, session.spec, step, loss, keeps=ranks.is_first)
    session.run.report(Metrics(step, {"eval_loss": loss, "eval_seconds": time.perf_counter() - began}))
    return loss


def _losses(session: Session, processor: DataProcessor, lookout: Lookout) -> tuple[float, float, dict[str, float]]:
    """(sum of -log p over the learned tokens, how many they are, mean by sample), of all ranks together."""
    size, ranks, even = session.spec.optimization.batch_size, session.ranks, session.even_batches
    numbers = range(len(session.held_out))
    groups = [list(numbers[first : first + size]) for first in numbers[::size]]
    # Its own source and processor: those of training are in use by the thread that prepares the next steps.
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=0)
    mine = groups[ranks.rank :: ranks.count]
    total, targets = 0.0, 0.0
    losses: dict[str, float] = {}
    # Several ranks only look up together.
    alone = lookout.look_up if ranks.count == 1 else None
    stream = BatchStream(session.held_out, mine, source, processor, ahead=2, cache=session.encoder, look_up=alone)
    with torch.no_grad(), stream:
        # All ranks look up as often as each other, also one whose share has come to its end.
        for _ in groups[:: ranks.count]:
            lookout.look_up()
            for batch, counts in even.batches(next(stream, [])):
                summed, by_sample = session.losses(batch)
                if counts:
                    total += float(summed)
                    losses.update(zip(batch.sample_ids, by_sample.tolist(), strict=True))
                    targets += batch.target_tokens
    total, targets = ranks.totals([total, targets])
    for others in ranks.gather(losses):
        losses.update(others)
    return total, targets, losses


@contextmanager
def _measuring(model: Any) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()
