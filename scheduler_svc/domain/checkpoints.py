"""Checkpoints on record, and which of them are kept."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from scheduler_svc.domain.parameters import CheckpointPolicy


@dataclass(frozen=True, slots=True, order=True)
class CheckpointName:
    """One checkpoint among those of a job; in order of age.

    The attempt goes first: a later one that passed a damaged checkpoint over counts from where it went on.
    """

    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class RecordedCheckpoint:
    """What the policy asks of a checkpoint."""

    name: CheckpointName
    eval_loss: float | None = None


def kept_checkpoints(recorded: Collection[RecordedCheckpoint], policy: CheckpointPolicy) -> frozenset[CheckpointName]:
    """Returns those that stay: always the newest, so that a job goes on from there whatever the policy."""
    newest_first = sorted((each.name for each in recorded), reverse=True)
    kept = set(newest_first[: max(1, policy.keep_last)])
    if policy.keep_every_steps:
        # Two attempts may have saved the same step: one of them is enough.
        by_step = {name.step: name for name in reversed(newest_first) if name.step % policy.keep_every_steps == 0}
        kept.update(by_step.values())
    best = _best(recorded) if policy.keep_best else None
    if best is not None:
        kept.add(best)
    return frozenset(kept)


def _best(recorded: Collection[RecordedCheckpoint]) -> CheckpointName | None:
    """The one with the lowest loss, the newest of several."""
    best: tuple[float, CheckpointName] | None = None
    for each in sorted(recorded, key=lambda each: each.name, reverse=True):
        if each.eval_loss is None or not math.isfinite(each.eval_loss):
            continue
        if best is None or each.eval_loss < best[0]:
            best = (each.eval_loss, each.name)
    return None if best is None else best[1]
