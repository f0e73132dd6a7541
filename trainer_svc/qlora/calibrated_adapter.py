"""What an adapter is given after a look at the data: a start that is not random, and ranks that differ by layer."""

from __future__ import annotations

import math
from functools import partial
from itertools import chain
from typing import Any

import torch

from trainer_svc.qlora.adapter_start import start_adapter
from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.errors import NonFiniteLossError
from trainer_svc.qlora.messages import Log, Starting
from trainer_svc.qlora.qlora_injector import trainable
from trainer_svc.qlora.rank_allocation import allocate_ranks, rebuild
from trainer_svc.qlora.training_session import Session, calibration_stream

_NOT_FINITE = "samples without a finite loss"


def give_start(session: Session) -> None:
    """Gives the adapter what it is to begin with, where that takes more than random numbers."""
    if session.spec.lora.initialization == "default":
        return
    session.run.report(Starting("initialization"))
    base, model, folder = session.base, session.state.model, session.run.folders.model
    if session.ranks.is_first:
        stream = partial(calibration_stream, session, 0)
        announce = partial(session.run.report, Starting("initialization"))
        told = start_adapter(base, model, session.spec, folder, stream, session.loss, announce)
        session.run.report(Log("info", told))
    session.ranks.copy_from_first(trainable(model).values())


def reallocate_ranks(session: Session, step: int) -> None:
    """Scores the adapter on the batches that come next, and goes on with one of ranks that differ by layer. Of several
    processes the first decides. Raises `BrokenOffError` when the run is to stop: nothing has changed then."""
    ranks, state = session.ranks, session.state
    report = ranks.decide(_score_and_allocate(session, step) if ranks.is_first else None)
    if bad := report.get(_NOT_FINITE):
        raise NonFiniteLossError(step, math.nan, math.nan, bad)
    if not ranks.is_first:
        rebuild(session.base, session.spec, state, report)
    ranks.copy_from_first(trainable(state.model).values())
    ranks.seed(session.spec.optimization.seed)
    state.model.train()
    shares = ", ".join(f"{group} {share:.0%}" for group, share in report["budget_shares"].items())
    each = [layer["rank"] for layer in report["layers"]]
    session.run.report(
        Log(
            "info",
            f"ranks allocated after {step} steps: {min(each)} to {max(each)} over {len(each)} layers; "
            f"{report['spent_parameters']:,} of {report['budget_parameters']:,} parameters, of which {shares}; "
            f"updates are scaled by {report['scale']:.4g} to the end, by the warm-up's rank",
        )
    )


def _score_and_allocate(session: Session, step: int) -> dict[str, Any]:
    state = session.state

    def backward(batch: Batch) -> None:
        loss = session.loss(batch) / batch.target_tokens
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(step, float(loss), math.nan, list(batch.sample_ids))
        loss.backward()  # type: ignore[no-untyped-call]

    with calibration_stream(session, step, session.spec.lora.rank_allocation.calibration_batches) as stream:
        try:
            return allocate_ranks(session.base, session.spec, state, chain.from_iterable(stream), backward)
        except NonFiniteLossError as error:
            # Raised at all ranks together, which then can keep a checkpoint.
            return {_NOT_FINITE: error.sample_ids}
