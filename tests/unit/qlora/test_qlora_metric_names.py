"""The figures of a step have the names that the contract and the docs tell."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer_svc.qlora.step_meter import StepMeter
from trainer_svc.usecases.train_in_child import _contract_names

ROOT = Path(__file__).parents[3]
PLACES = ("proto/reeltune/scheduler/v1/job_event.proto", "docs/training.md")
MEASURED = {"eval_loss": 0.0, "eval_seconds": 0.0, "encoder_cache_hit_fraction": 0.0}


def test_every_figure_is_told_of_in_the_contract_and_in_the_docs() -> None:
    meter = StepMeter(torch.device("cpu"))
    meter.add(loss=1.0, grad_norm=1.0, learning_rate=0.1, samples=1, clips=1, tokens=1)
    names = set(_contract_names(meter.take(wait_seconds=0.0) | MEASURED))

    assert "loss" in names
    for place in PLACES:
        text = (ROOT / place).read_text(encoding="utf-8")
        assert {name for name in names if f"`{name}`" not in text} == set(), place
