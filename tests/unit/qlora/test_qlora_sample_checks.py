from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.sample_checks import check_samples
from trainer_svc.qlora.spec import SpecError, TrainingSpec

ANSWER = Turn("assistant", ("red",))
TALK = Sample("t0", "train", (Turn("user", ("colour?",)), ANSWER))
SEEN = Sample("s0", "train", (Turn("user", (Clip(Path("a.mp4")), "colour?")), ANSWER))


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("evaluate_every_steps", "evaluate_every_steps=2"),
        ("early_stopping.patience", "early_stopping.patience=1"),
        ("restore_best", "restore_best=true"),
        ("keep_best_checkpoint", "keep_best_checkpoint=true"),
        ("sample_predictions.count", "sample_predictions.count=1"),
    ],
)
def test_what_needs_held_out_samples_is_refused_without_any(field: str, option: str) -> None:
    spec = TrainingSpec().with_overrides([option])
    with pytest.raises(SpecError, match="needs held-out samples, and there are none") as refused:
        check_samples(spec, [SEEN], [])
    assert refused.value.field == field
    check_samples(spec, [SEEN], [replace(SEEN, sample_id="e0", split="eval")])


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("lora.target_groups", ["lora.target_groups=language,vision"]),
        ("lora.target_groups", ["lora.target_groups=projector"]),
        ("lora.temporal_groups", ["lora.temporal_groups=language"]),
    ],
)
def test_adapters_that_only_clips_train_are_refused_without_any(field: str, options: list[str]) -> None:
    spec = TrainingSpec().with_overrides(options)
    with pytest.raises(SpecError, match="no sample to train on has a clip") as refused:
        check_samples(spec, [TALK], [])
    assert refused.value.field == field
    check_samples(spec, [TALK, SEEN], [])
    check_samples(TrainingSpec(), [TALK], [])
