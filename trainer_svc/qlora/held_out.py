"""The measurement on the held-out samples, which training does not notice."""

from __future__ import annotations

import copy
import math
import time
from itertools import chain

import torch

from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.best_adapter import note_evaluation
from trainer_svc.qlora.data_processor import DataProcessor
from trainer_svc.qlora.errors import NonFiniteLossError
from trainer_svc.qlora.messages import Metrics, Progress
from trainer_svc.qlora.sample_predictions import Answering, tell_predictions
from trainer_svc.qlora.training_session import Session


def measure_held_out(session: Session, step: int) -> float | None:
    """Mean loss of a learned token on the held-out samples, in their own order; None when there are none."""
    if not session.held_out:
        return None
    began = time.perf_counter()
    model, size = session.state.model, session.spec.optimization.batch_size
    groups = [
        list(range(first, min(first + size, len(session.held_out)))) for first in range(0, len(session.held_out), size)
    ][session.ranks.rank :: session.ranks.count]
    # Its own source and processor: those of training are in use by the thread that prepares the next steps.
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=0)
    processor = DataProcessor(copy.deepcopy(session.base.processor), max_tokens=session.max_tokens)
    total, targets = 0.0, 0.0
    losses: dict[str, float] = {}
    model.eval()
    stream = BatchStream(session.held_out, groups, source, processor, ahead=2, cache=session.encoder)
    with torch.no_grad(), stream:
        for batch, counts in session.lockstep.batches(chain.from_iterable(stream)):
            summed, by_sample = session.losses(batch)
            if counts:
                total += float(summed)
                losses.update(zip(batch.sample_ids, by_sample.tolist(), strict=True))
                targets += batch.target_tokens
    total, targets = session.ranks.totals([total, targets])
    if not math.isfinite(total):
        names = [sample.sample_id for sample in session.held_out]
        raise NonFiniteLossError(step, total, 0.0, names)
    for others in session.ranks.gather(losses):
        losses.update(others)
    if session.spec.sample_predictions.count:
        progress = Progress(step, session.total_steps, session.plan.epoch_of(step - 1), step / session.total_steps)
        answering = Answering(model, session.base, processor, session.pool, session.spec)
        tell_predictions(session.run, answering, session.held_out, losses, progress, is_first=session.ranks.is_first)
    model.train()
    loss = total / targets
    session.measured["eval_loss"] = loss
    note_evaluation(session.state, session.spec, step, loss, keeps=session.ranks.is_first)
    session.run.report(Metrics(step, {"eval_loss": loss, "eval_seconds": time.perf_counter() - began}))
    return loss
