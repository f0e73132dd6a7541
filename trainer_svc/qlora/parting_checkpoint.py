"""What was learned is kept when a run cannot go on: for its owner to go on from, and whoever looks for the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainer_svc.qlora.errors import BadDataError, NonFiniteLossError
from trainer_svc.qlora.random_states import restore_torch_states, torch_states
from trainer_svc.qlora.run_results import keep_checkpoint
from trainer_svc.qlora.training_session import Session


@contextmanager
def parting_checkpoint(session: Session, step: int, *, owes_measurement: bool = False) -> Iterator[None]:
    """Keeps a checkpoint of `step`, as it was, when what is done inside ends by its numbers or its data. It
    `owes_measurement` where that was what could not be done."""
    before = torch_states()
    try:
        yield
    except (NonFiniteLossError, BadDataError) as error:
        # Numbers end all ranks together. Bad data ends one of them, and the others are not there to keep a checkpoint.
        if step and (isinstance(error, NonFiniteLossError) or session.ranks.count == 1):
            restore_torch_states(before)
            session.state.owes_measurement = session.state.owes_measurement or owes_measurement
            keep_checkpoint(session, step)
        raise
