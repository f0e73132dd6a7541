"""What makes a run the same as another: a checkpoint is gone on from by the same run alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer_svc.qlora.adapter_files import named_plugin
from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.model_folder import file_sha256, processor_sha256
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec


def run_identity(run: RunContext, spec: TrainingSpec, base: BaseModel, samples: Iterable[Sample]) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from: all that changes what is learned from `samples`."""
    ignored = {
        *("runtime", "checkpoint_every_steps", "log_every_steps", "evaluate_every_steps"),
        *("keep_checkpoints", "keep_best_checkpoint", "keep_checkpoint_every_steps", "sample_predictions"),
    }
    identity = {
        "base model": base.fingerprint,
        "processor": processor_sha256(run.folders.model),
        "plugin": named_plugin(spec),
        "dataset": file_sha256(run.folders.dataset / "rows.jsonl"),
        "specification": {key: value for key, value in spec.to_dict().items() if key not in ignored},
    }
    if not run.folders.owner_digest:
        # A mesh's datasets never change; in a folder of somebody's own another clip may have got the same name.
        identity["clips"] = _clips_sha256({clip.path for sample in samples for clip in sample.clips})
    return identity


def _clips_sha256(clips: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for clip in sorted(clips):
        try:
            digest.update(f"{clip.name} {file_sha256(clip)}\n".encode())
        except OSError:
            # It ends the run when it is decoded, with its sample's name.
            digest.update(f"{clip.name} cannot be read\n".encode())
    return digest.hexdigest()
