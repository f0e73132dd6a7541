"""Whether the gradients of a run are any good: none is missing, and where one is not finite, whose fault that is."""

from __future__ import annotations

import math
from itertools import chain

import torch

from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.errors import NonFiniteLossError
from trainer_svc.qlora.messages import Log
from trainer_svc.qlora.qlora_injector import check_gradients
from trainer_svc.qlora.training_session import Session

_OVERFLOWS_ALLOWED = 20
"""Steps in a row that fp16 may lose while its scale is being found."""


class GradientWatch:
    """For the steps of one process. All ranks watch alike."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_audited = False
        self._shows_clips = any(sample.clips for sample in session.training)
        self._overflows = 0

    def audit(self, step: int, loss: torch.Tensor) -> None:
        """Raises `GradientAuditError` for a tensor that would never train, at the first step that could train it: one
        of texts alone leaves the vision tower without gradients, and rightly so."""
        if self._is_audited or (self._shows_clips and not self._session.clips_of(step)):
            return
        if bool(torch.isfinite(loss)):
            check_gradients(self._session.state.model, overflows=self._session.state.scaler.is_enabled())
            self._is_audited = True

    def note(self, batches: list[Batch], step: int, loss: float, norm: float) -> None:
        """Takes a step in before the optimizer does. Raises `NonFiniteLossError` when it must not; a step that fp16
        loses to overflow it passes over by itself."""
        state = self._session.state
        if math.isfinite(loss) and math.isfinite(norm):
            self._overflows = 0
            state.measured["loss"] = loss
            return
        self._overflows += 1
        if not math.isfinite(loss) or not state.scaler.is_enabled() or self._overflows > _OVERFLOWS_ALLOWED:
            names = self._session.ranks.gather([name for batch in batches for name in batch.sample_ids])
            raise NonFiniteLossError(step + 1, loss, norm, list(chain.from_iterable(names)))
        words = f"step {step + 1} is lost: its gradients overflow fp16 at a loss scale of {state.scaler.get_scale():g}"
        self._session.run.report(Log("info", f"{words}, which is halved"))
