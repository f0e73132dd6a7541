"""What makes a run the same as another: a checkpoint is gone on from by the same run alone."""

from __future__ import annotations

from typing import Any

from trainer_svc.qlora.model_folder import file_sha256
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec


def run_identity(run: RunContext, spec: TrainingSpec, base: BaseModel) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from: all that changes what is learned."""
    ignored = {
        *("runtime", "checkpoint_every_steps", "log_every_steps", "evaluate_every_steps"),
        *("keep_checkpoints", "keep_best_checkpoint", "keep_checkpoint_every_steps", "sample_predictions"),
    }
    return {
        "base model": base.fingerprint,
        "dataset": file_sha256(run.folders.dataset / "rows.jsonl"),
        "specification": {key: value for key, value in spec.to_dict().items() if key not in ignored},
    }
