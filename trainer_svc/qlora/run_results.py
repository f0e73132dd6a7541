"""What a run leaves behind: checkpoints on the way, and an adapter at its end."""

from __future__ import annotations

from typing import Any

from trainer_svc.qlora.adapter_files import write_adapter
from trainer_svc.qlora.checkpoint import save_checkpoint
from trainer_svc.qlora.checkpoint_folders import keep_rule
from trainer_svc.qlora.errors import AllStepsLostError, DiskTroubleError
from trainer_svc.qlora.messages import CheckpointSaved, Completed, Log, Stopped, StopReason
from trainer_svc.qlora.qlora_injector import trainable
from trainer_svc.qlora.random_states import random_states
from trainer_svc.qlora.training_session import Session


def keep_checkpoint(session: Session, step: int, eval_loss: float | None = None) -> str | None:
    """Saves a checkpoint and returns its folder; None when the disk does not take it, which must not end the run."""
    ranks = session.ranks
    states = ranks.gather(random_states()) if ranks.count > 1 else []
    if not ranks.is_first:
        return None
    try:
        path = save_checkpoint(
            session.run.folders.checkpoints,
            session.state,
            step=step,
            identity=session.identity,
            keep=keep_rule(session.spec),
            eval_loss=eval_loss,
            ranks=states,
        )
    except DiskTroubleError as error:
        session.run.report(Log("warning", f"no checkpoint of step {step}: {error}; training goes on"))
        return None
    session.run.report(CheckpointSaved(step, str(path), eval_loss))
    return str(path)


def finish_stopped(session: Session, step: int, reason: StopReason) -> None:
    if step == 0:
        session.run.report(Stopped(reason, 0, None, None, None))
        return
    adapter_dir, manifest = None, None
    if reason is StopReason.USER:
        if session.state.allocation is None and session.spec.lora.rank_allocation.warmup_steps:
            words = f"stopped in the warm-up: the adapter has rank {session.spec.lora.first_rank} in every layer"
            session.run.report(Log("info", f"{words}, and more parameters than lora.rank would give"))
        # First what the owner asked for, in case that there is no time for both.
        manifest = _write_adapter(session, step) if session.ranks.is_first else {}
        adapter_dir = str(session.run.folders.adapter)
    checkpoint = keep_checkpoint(session, step)
    session.run.report(Stopped(reason, step, adapter_dir, checkpoint, manifest))


def finish_completed(session: Session, steps: int) -> None:
    """Publishes what was learned. Raises `AllStepsLostError` when that is nothing."""
    if session.state.scaler.is_enabled() and "loss" not in session.state.measured:
        raise AllStepsLostError(steps)
    if not session.ranks.is_first:
        return
    manifest = _write_adapter(session, steps)
    # Not of this process alone: a run may go on for nothing but a measurement that it owes. Old checkpoints have none.
    final_loss = session.state.measured.get("loss", 0.0)
    early = ""
    if steps < session.total_steps:
        early = f"ended at step {steps} of {session.total_steps}: {session.state.held_out_losses.in_words()}"
    session.run.report(Completed(str(session.run.folders.adapter), manifest, steps, final_loss, early))


def _write_adapter(session: Session, steps: int) -> dict[str, Any]:
    training = {
        "steps": steps,
        "total_steps": session.total_steps,
        "samples": len(session.training),
        "held_out_samples": len(session.held_out),
        "rows_sha256": session.identity["dataset"],
        "trained_parameters": sum(value.numel() for value in trainable(session.state.model).values()),
        **session.state.measured,
    }
    state = session.state
    if session.spec.lora.rank_allocation.warmup_steps:
        training |= {"ranks_differ_by_layer": state.allocation is not None, "scale": session.spec.lora.scale}
    if state.best is not None:
        best = state.held_out_losses
        training |= {
            "adapter_of_step": best.best_step,
            "eval_loss": best.best_loss,
            "eval_loss_of_step": best.best_step,
        }
        text = (
            f"the adapter is that of step {state.held_out_losses.best_step}, with the lowest loss on held-out samples"
        )
        session.run.report(Log("info", text))
    return write_adapter(
        session.run.folders.adapter,
        session.state.model,
        session.base,
        session.spec,
        training,
        allocation=session.state.allocation,
        tensors=state.best,
    )
