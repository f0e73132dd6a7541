"""What a trainer counts: sums of which any time's rate can be told, and devices only while a job runs on them."""

from __future__ import annotations

import math

import pytest

from trainer_svc import metrics


def test_means_of_several_steps_become_sums_that_add_up_to_their_time() -> None:
    parts = ("data", "forward", "backward", "optimizer", "other")
    before = {part: _value("step_seconds_total", part=part) for part in parts}
    tokens = _value("tokens_total")
    figures = {"step_seconds": 0.5, "data_seconds": 0.1, "forward_seconds": 0.15, "backward_seconds": 0.2}
    metrics.count_steps(10, {**figures, "optimizer_seconds": 0.04, "tokens_per_second": 300.0})
    grown = {part: _value("step_seconds_total", part=part) - before[part] for part in parts}
    assert grown == pytest.approx({"data": 1.0, "forward": 1.5, "backward": 2.0, "optimizer": 0.4, "other": 0.1})
    assert sum(grown.values()) == pytest.approx(5.0)
    assert _value("tokens_total") - tokens == pytest.approx(1500)


def test_figures_that_are_missing_or_nonsense_take_nothing_away() -> None:
    before = {name: _value(name) for name in ("samples_total", "clips_total", "tokens_total")}
    metrics.count_steps(0, {})
    metrics.count_steps(
        3, {"step_seconds": 0.1, "data_seconds": -1.0, "forward_seconds": 0.3, "tokens_per_second": -5.0}
    )
    assert {name: _value(name) for name in before} == before


def test_devices_are_told_together_and_each_until_their_job_has_ended() -> None:
    metrics.show_device({"device_utilization_percent": 75.0, "device_power_watts.1": 210.0, "loss": 1.0})
    assert _value("device_utilization_ratio", device="all") == 0.75
    assert _value("device_power_watts", device="1") == 210.0
    metrics.LOSS.set(1.5)
    metrics.forget_job()
    assert metrics.REGISTRY.get_sample_value("reeltune_trainer_device_power_watts", {"device": "1"}) is None
    assert math.isnan(_value("job_loss"))


def _value(name: str, **labels: str) -> float:
    value = metrics.REGISTRY.get_sample_value(f"reeltune_trainer_{name}", labels)
    assert value is not None
    return value
