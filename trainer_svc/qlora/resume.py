"""Going on from the newest checkpoint, at every rank alike."""

from __future__ import annotations

from typing import Any

from trainer_svc.qlora.checkpoint import TrainState, load_checkpoint
from trainer_svc.qlora.checkpoint_folders import newest_checkpoint, read_state
from trainer_svc.qlora.messages import Log, Starting
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.random_states import restore_rank
from trainer_svc.qlora.rank_allocation import rebuild
from trainer_svc.qlora.ranks import Ranks
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec


def resume(
    run: RunContext, spec: TrainingSpec, base: BaseModel, state: TrainState, ranks: Ranks, identity: dict[str, Any]
) -> int:
    """Steps done, by the newest whole checkpoint; 0 without one."""
    name = ranks.decide(_newest_checkpoint(run, identity) if ranks.is_first else None)
    if name is None:
        return 0
    found = run.folders.checkpoints / name
    run.report(Starting("resume"))
    saved = read_state(found)
    if report := saved["allocation"]:
        rebuild(base, spec, state, report)
    step = load_checkpoint(found, state)
    if not restore_rank(saved, ranks, spec.optimization.seed):
        run.report(Log("info", f"{name} is of a run on another number of devices: dropout goes on by others"))
    # Checkpoints of older versions do not say.
    if (before := saved.get("decoder", state.decoder)) != state.decoder:
        words = f"{name} was trained on clips decoded with {before}; from here on they are decoded with {state.decoder}"
        run.report(Log("warning", f"{words}: to the same frames, but for last bits on a processor of another kind"))
    run.report(Log("info", f"going on from {name}"))
    return step


def _newest_checkpoint(run: RunContext, identity: dict[str, Any]) -> str | None:
    """Name of the newest whole checkpoint."""
    found, damaged = newest_checkpoint(run.folders.checkpoints, identity)
    for path in damaged:
        run.report(Log("warning", f"checkpoint {path.name} is damaged and was passed over"))
    return found.name if found else None
