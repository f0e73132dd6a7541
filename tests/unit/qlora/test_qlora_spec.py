from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain.parameters import SamplingParameters
from trainer_svc.qlora.spec import SamplingSpec, SpecError, TrainingSpec


def test_defaults_are_valid_and_survive_json() -> None:
    spec = TrainingSpec().validate()
    assert TrainingSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_the_documented_defaults() -> None:
    spec = TrainingSpec()
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.dropout) == (16, 32.0, 0.05)
    assert spec.lora.target_groups == ("language",)
    assert (spec.quantization.bits, spec.quantization.double_quantization) == (4, True)
    assert (spec.optimization.learning_rate, spec.optimization.warmup_ratio) == (2e-4, 0.03)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"lora": {"rnak": 8}}, "lora.rnak"),
        ({"unknown": 1}, "unknown"),
        ({"lora": 3}, "lora"),
        ({"lora": {"rank": "8"}}, "lora.rank"),
        ({"lora": {"rank": 8.5}}, "lora.rank"),
        ({"lora": {"rank": True}}, "lora.rank"),
        ({"lora": {"rank": float("inf")}}, "lora.rank"),
        ({"lora": {"use_rslora": 1}}, "lora.use_rslora"),
        ({"lora": {"target_groups": "language"}}, "lora.target_groups"),
        ({"lora": {"target_groups": ["hands"]}}, "lora.target_groups"),
        ({"optimization": {"schedule": "weekly"}}, "optimization.schedule"),
        ({"quantization": {"compute_dtype": None}}, "quantization.compute_dtype"),
    ],
)
def test_what_is_not_a_specification_is_refused_by_field(value: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        TrainingSpec.from_dict(value)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("lora.rank=0", "lora.rank"),
        ("lora.dropout=NaN", "lora.dropout"),
        ("lora.target_groups=[]", "lora.target_groups"),
        ("lora.target_groups=language,language", "lora.target_groups"),
        ("lora.temporal_groups=vision", "lora.temporal_groups"),
        ("lora.temporal_groups=language,language", "lora.temporal_groups"),
        ("lora.temporal_kernel_size=4", "lora.temporal_kernel_size"),
        ("lora.temporal_kernel_size=5", "lora.temporal_kernel_size"),
        ("restore_best=true", "restore_best"),
        ("keep_best_checkpoint=true", "keep_best_checkpoint"),
        ("runtime.devices=9", "runtime.devices"),
        ("lora.temporal_kernel_size=11", "lora.temporal_kernel_size"),
        ("quantization.bits=8", "quantization.bits"),
        ("sampling.min_frames=99", "sampling.min_frames"),
        ("optimization.batch_size=0", "optimization.batch_size"),
        ("optimization.epochs=0", "optimization.epochs"),
        ("eval_fraction=1", "eval_fraction"),
    ],
)
def test_values_out_of_range_are_refused_by_field(assignment: str, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        TrainingSpec().with_overrides([assignment]).validate()
    assert caught.value.field == field


def test_a_quantised_tower_cannot_be_a_target() -> None:
    spec = TrainingSpec().with_overrides(["quantization.quantize_vision=true", "lora.target_groups=vision"])
    with pytest.raises(SpecError, match="quantize_vision"):
        spec.validate()


def test_overrides_take_json_and_bare_words() -> None:
    spec = TrainingSpec().with_overrides(
        ["lora.rank=8", "lora.target_groups=language,vision", "optimization.schedule=linear", "max_tokens=100"]
    )
    assert spec.lora.rank == 8
    assert spec.lora.target_groups == ("language", "vision")
    assert spec.optimization.schedule == "linear"
    assert spec.max_tokens == 100


@pytest.mark.parametrize("assignment", ["lora.rank", "nowhere.rank=1", "lora.rank.deep=1"])
def test_overrides_that_name_nothing_are_refused(assignment: str) -> None:
    with pytest.raises(SpecError):
        TrainingSpec().with_overrides([assignment])


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)
sections = {
    section: st.dictionaries(st.sampled_from([*fields, "unknown"]), values)
    for section, fields in TrainingSpec().to_dict().items()
    if isinstance(fields, dict)
}


@given(
    st.fixed_dictionaries({}, optional={**sections, "max_tokens": values, "eval_fraction": values, "unknown": values})
)
def test_any_object_is_read_or_refused_by_field(value: dict[str, object]) -> None:
    try:
        spec = TrainingSpec.from_dict(value).validate()
    except SpecError as error:
        refused = error
    else:
        assert TrainingSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec
        return
    assert refused.field.split(".")[0] in {*value, *TrainingSpec().to_dict()}
    assert refused.problem


def test_a_job_and_a_preview_that_say_nothing_sample_alike() -> None:
    """A preview takes the library's defaults, a job the scheduler's: both must be the same frames."""
    for name in ("max_frames", "fps", "max_pixels"):
        assert getattr(SamplingSpec(), name) == getattr(SamplingParameters(), name)
