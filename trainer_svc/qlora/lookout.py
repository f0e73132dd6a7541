"""Looking up from what takes long: whoever watches is told that it goes on, and a stop is heard before its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from trainer_svc.qlora.messages import StopReason, TrainingUp
from trainer_svc.qlora.run_context import RunContext

SIGN_SECONDS = 5.0
"""Signs of life are at least so far apart: there may be thousands of clips in a second."""


class BrokenOffError(Exception):
    """The run is to stop, and what it was at counts for nothing: who goes on with the run does it again."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Lookout:
    """For one thing that takes long. Looking up is a meeting where `run` is one of several ranks' (see `RankedRun`)."""

    def __init__(self, run: RunContext, sign: TrainingUp, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`sign`: the message that shows progress."""
        self._run = run
        self._sign = sign
        self._clock = clock
        self._told_at = clock()

    def look_up(self) -> None:
        """Raises `BrokenOffError` when the run is to stop."""
        if reason := self._heard():
            raise BrokenOffError(reason)

    def hears_stop(self) -> bool:
        """The same for whoever cannot be left by an exception."""
        return self._heard() is not None

    def _heard(self) -> StopReason | None:
        if self._clock() >= self._told_at + SIGN_SECONDS:
            self._run.report(self._sign)
            self._told_at = self._clock()
        return self._run.stop_requested()


def between_tokens(is_cancelled: Callable[[], bool]) -> StoppingCriteriaList:
    """Has `generate` ask before every token but the first, and end when that is so."""
    return StoppingCriteriaList([_Cancelled(is_cancelled)])


class _Cancelled(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._is_cancelled(), dtype=torch.bool, device=input_ids.device)
