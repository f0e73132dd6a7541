"""What a specification asks of samples, held against those that there are."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.spec import SpecError, TrainingSpec


def check_samples(spec: TrainingSpec, training: Sequence[Sample], held_out: Sequence[Sample]) -> None:
    """Raises `SpecError` for what these samples cannot give, and would be passed over in silence."""
    if not held_out:
        for field, is_asked in (
            ("evaluate_every_steps", spec.evaluate_every_steps > 0),
            ("early_stopping.patience", spec.early_stopping.patience > 0),
            ("restore_best", spec.restore_best),
            ("keep_best_checkpoint", spec.keep_best_checkpoint),
            ("sample_predictions.count", spec.sample_predictions.count > 0),
        ):
            if is_asked:
                raise SpecError(
                    field,
                    "needs held-out samples, and there are none",
                    "add rows of the split eval, set or raise eval_fraction, or leave it out",
                )
    if any(sample.clips for sample in training):
        return
    if spec.lora.temporal_groups:
        raise SpecError("lora.temporal_groups", "no sample to train on has a clip", "leave them out, or add clips")
    if seeing := [group for group in spec.lora.target_groups if group != "language"]:
        raise SpecError(
            "lora.target_groups",
            f"no sample to train on has a clip, so that nothing of {' and '.join(seeing)} would be trained",
            "name language alone, or add clips",
        )
