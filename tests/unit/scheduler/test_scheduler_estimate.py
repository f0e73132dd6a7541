"""Estimates: more work never takes less memory, what is said to fit does, and nothing is refused that is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.domain.adapter_parameters import LoraParameters, ModuleGroup, RankAllocation
from scheduler_svc.domain.estimate.effort import Duration, Effort, estimate_duration, total_steps
from scheduler_svc.domain.estimate.facts import (
    DatasetShape,
    FrameBudget,
    FrameRule,
    ModelShape,
    Part,
    RowShape,
    ShapeClip,
)
from scheduler_svc.domain.estimate.fit import (
    Fit,
    changes_that_fit,
    estimate_job,
    judge,
    most_frames_within_context,
    most_that_fits,
)
from scheduler_svc.domain.estimate.memory import Memory, MemoryPart, adapter_parameters, estimate_memory
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import characters_per_token, count_tokens, rows_over_context
from scheduler_svc.domain.job import DeviceClass
from scheduler_svc.domain.parameters import (
    ComputeType,
    OptimizationParameters,
    QuantizationParameters,
    QuantizationType,
    SamplingParameters,
    TrainingParameters,
)
from scheduler_svc.domain.speed_parameters import EncoderCache, SpeedParameters
from scheduler_svc.domain.training_options import FramePlacement, LayerPattern

GB = 10**9
QWEN3_VL = FrameRule(FrameBudget.ALL_FRAMES, 16, 2, 2, 131072, 786432, patches_per_token=4.0, characters_per_step=13)
RULES = (
    QWEN3_VL,
    replace(QWEN3_VL, max_frame_tokens=768),
    FrameRule(FrameBudget.EACH_FRAME, 14, 2, 2, 100352, 602112, patches_per_token=4.0),
    FrameRule(FrameBudget.SHARED, 14, 1, 2, 100352, 602112, patches_per_token=4.0, is_upper_bound=True),
    FrameRule(FrameBudget.FIXED, tokens_per_frame=64, patches_per_token=16.0, characters_per_step=40),
)
SEVEN_B = ModelShape(
    vision=Part(600_000_000, 104, 590_000_000, 104 * 1500, 104 * 1700, 4_500_000, 27, 1152),
    projector=Part(40_000_000, 2, 40_000_000, 9216, 8192, 21_000_000, 1, 4608),
    language=Part(7_600_000_000, 252, 6_900_000_000, 36 * 37000, 36 * 42000, 50_000_000, 36, 4096),
    head=Part(620_000_000),
    vocabulary=151_936,
    context_length=32_768,
    frame_rule=QWEN3_VL,
)
CLIPS = DatasetShape(
    shapes=(
        RowShape(90, (ShapeClip(1280, 720, 900, 30.0),), "long", 300.0),
        RowShape(10, (ShapeClip(640, 360, 50, 25.0), ShapeClip(640, 360, 40, 25.0)), "pair", 80.0),
    ),
    rows=100,
    max_text=600,
    mean_text=200.0,
    max_answer=200,
    mean_answer=80.0,
)
GPU = Place(DeviceClass.CUDA, 24 * GB)

sizes = st.integers(16, 2000)
clips = st.builds(ShapeClip, sizes, sizes, st.integers(1, 5000), st.sampled_from([1.0, 12.5, 30.0, 240.0]))
shapes = st.builds(RowShape, st.integers(1, 1000), st.lists(clips, min_size=1, max_size=3).map(tuple))
datasets = st.builds(
    DatasetShape,
    st.lists(shapes, min_size=1, max_size=4).map(tuple),
    st.integers(1, 10_000),
    st.integers(0, 10_000),
    st.just(10.0),
    st.integers(0, 10_000),
    st.just(5.0),
)
models = st.sampled_from(RULES).map(lambda rule: replace(SEVEN_B, frame_rule=rule))
parameters = st.builds(
    TrainingParameters,
    st.builds(
        LoraParameters,
        rank=st.integers(1, 128),
        dropout=st.sampled_from([0.0, 0.1]),
        target_groups=st.lists(st.sampled_from(ModuleGroup), min_size=1, unique=True).map(tuple),
    ),
    st.builds(QuantizationParameters, type=st.sampled_from(QuantizationType), quantize_vision=st.booleans()),
    st.builds(
        SamplingParameters,
        max_frames=st.integers(1, 700),
        fps=st.sampled_from([0.0, 0.5, 2.0]),
        max_pixels=st.sampled_from([0, 12544, 200704]),
    ),
    st.builds(OptimizationParameters, batch_size=st.integers(1, 64), gradient_checkpointing=st.booleans()),
)
places = st.builds(
    Place, st.sampled_from([DeviceClass.CPU, DeviceClass.CUDA, DeviceClass.JETSON]), st.integers(0, 10**12)
)


def memory_of(
    asked: TrainingParameters, model: ModelShape = SEVEN_B, dataset: DatasetShape = CLIPS, place: Place = GPU
) -> Memory:
    return estimate_memory(model, count_tokens(model, dataset, asked.sampling), asked, place)


@settings(deadline=None)
@given(parameters, models, datasets, places, st.sampled_from(["batch", "frames", "rank"]), st.integers(1, 60))
def test_more_of_anything_never_takes_less(
    asked: TrainingParameters, model: ModelShape, dataset: DatasetShape, place: Place, what: str, more: int
) -> None:
    larger = {
        "batch": replace(
            asked, optimization=replace(asked.optimization, batch_size=asked.optimization.batch_size + more)
        ),
        "frames": replace(asked, sampling=replace(asked.sampling, max_frames=asked.sampling.max_frames + more)),
        "rank": replace(asked, lora=replace(asked.lora, rank=asked.lora.rank + more)),
    }[what]
    small, large = memory_of(asked, model, dataset, place), memory_of(larger, model, dataset, place)
    assert large.total >= small.total
    assert small.least <= small.total <= small.most


@settings(deadline=None, max_examples=40)
@given(parameters, models, datasets, places)
def test_what_is_suggested_fits_and_is_never_more_than_was_asked(
    asked: TrainingParameters, model: ModelShape, dataset: DatasetShape, place: Place
) -> None:
    found = most_that_fits(model, dataset, asked, place)
    if found is None:
        return
    sampling, optimization = asked.sampling, asked.optimization
    assert 1 <= found.max_frames <= sampling.max_frames
    assert found.max_pixels <= sampling.max_pixels or not sampling.max_pixels
    assert 1 <= found.batch_size <= optimization.batch_size
    wanted = replace(
        asked,
        sampling=replace(sampling, max_frames=found.max_frames, max_pixels=found.max_pixels),
        optimization=replace(optimization, batch_size=found.batch_size),
    )
    estimate = estimate_job(model, dataset, wanted, place)
    assert estimate.fit is Fit.FITS
    assert estimate.memory.total == found.total_bytes
    assert not rows_over_context(model, dataset, wanted.sampling)


@settings(deadline=None, max_examples=40)
@given(parameters, models, datasets, places)
def test_a_job_that_fits_needs_no_suggestion_and_one_that_does_not_gets_the_largest(
    asked: TrainingParameters, model: ModelShape, dataset: DatasetShape, place: Place
) -> None:
    estimate = estimate_job(model, dataset, asked, place)
    if estimate.fit in (Fit.FITS, Fit.UNKNOWN):
        assert estimate.suggestion is None
    elif estimate.suggestion is not None:
        assert estimate.suggestion.total_bytes <= place.memory_bytes
        assert (
            estimate.suggestion.max_frames < asked.sampling.max_frames
            or estimate.suggestion.batch_size < asked.optimization.batch_size
            or estimate.suggestion.max_pixels != asked.sampling.max_pixels
        )


def test_seven_billion_weights_take_what_the_formula_says() -> None:
    memory = memory_of(TrainingParameters())
    assert memory.of(MemoryPart.QUANTIZED_WEIGHTS) == pytest.approx(6.9e9 * 4.127 / 8, rel=1e-3)
    assert memory.of(MemoryPart.UNQUANTIZED_WEIGHTS) == (600 + 40 + 700 + 620) * 10**6 * 2
    trained = 16 * 36 * (37000 + 42000)
    assert adapter_parameters(SEVEN_B, LoraParameters()) == trained
    assert memory.of(MemoryPart.ADAPTER) == memory.of(MemoryPart.GRADIENTS) == trained * 4
    assert memory.of(MemoryPart.OPTIMIZER) == trained * 8
    plain = memory_of(replace(TrainingParameters(), quantization=QuantizationParameters(QuantizationType.NONE)))
    assert plain.of(MemoryPart.QUANTIZED_WEIGHTS) == 0
    assert plain.of(MemoryPart.UNQUANTIZED_WEIGHTS) == (600 + 40 + 7600 + 620) * 10**6 * 2


def test_on_a_cpu_everything_is_computed_in_32_bits() -> None:
    cpu, gpu = (memory_of(TrainingParameters(), place=Place(kind)) for kind in (DeviceClass.CPU, DeviceClass.CUDA))
    part = MemoryPart.UNQUANTIZED_WEIGHTS
    assert cpu.of(part) == 2 * gpu.of(part)


def test_checkpointing_saves_activations_and_the_rank_hardly_matters() -> None:
    kept = replace(TrainingParameters(), optimization=OptimizationParameters(gradient_checkpointing=False))
    assert memory_of(kept).of(MemoryPart.ACTIVATIONS) > 4 * memory_of(TrainingParameters()).of(MemoryPart.ACTIVATIONS)
    higher = replace(TrainingParameters(), lora=LoraParameters(rank=32))
    assert memory_of(higher).total < 1.1 * memory_of(TrainingParameters()).total


def test_ranks_that_differ_are_counted_at_the_rank_of_the_warm_up() -> None:
    lora = LoraParameters(rank=8, rank_allocation=RankAllocation(100, warmup_rank=32))
    assert adapter_parameters(SEVEN_B, lora) == adapter_parameters(SEVEN_B, LoraParameters(rank=32))


def test_adapters_that_mix_time_have_a_kernel_for_each_rank_and_layer() -> None:
    plain = LoraParameters(rank=4)
    mixing = replace(plain, temporal_groups=(ModuleGroup.LANGUAGE,), temporal_kernel_size=5)
    more = adapter_parameters(SEVEN_B, mixing) - adapter_parameters(SEVEN_B, plain)
    assert more == 4 * 5 * SEVEN_B.language.linear_layers


def test_without_tokens_only_what_is_sure_is_counted_and_only_that_can_refuse() -> None:
    unknown = replace(SEVEN_B, frame_rule=None)
    memory = memory_of(TrainingParameters(), unknown)
    assert not memory.is_complete
    assert memory.of(MemoryPart.ACTIVATIONS) == 0
    assert judge(memory, 24 * GB) is Fit.UNKNOWN
    assert judge(memory, 4 * GB) is Fit.EXCEEDS, "the weights alone are more"
    assert judge(memory, 0) is Fit.UNKNOWN
    assert count_tokens(SEVEN_B, DatasetShape(()), SamplingParameters()) is None


def test_memory_within_the_error_of_the_estimate_is_tight() -> None:
    memory = memory_of(TrainingParameters())
    assert judge(memory, memory.least - 1) is Fit.EXCEEDS
    assert judge(memory, memory.least) is judge(memory, memory.total) is Fit.TIGHT
    assert judge(memory, memory.most) is Fit.FITS


def test_nothing_is_suggested_where_the_weights_alone_do_not_fit() -> None:
    assert estimate_job(SEVEN_B, CLIPS, TrainingParameters(), Place(DeviceClass.JETSON, 4 * GB)).suggestion is None


@pytest.mark.parametrize(
    ("asked", "gigabytes", "names"),
    [
        (TrainingParameters(quantization=QuantizationParameters(QuantizationType.NONE)), 16, {"quantization.type"}),
        (TrainingParameters(lora=LoraParameters(rank=1024)), 24, {"lora.rank"}),
        (TrainingParameters(optimization=OptimizationParameters(batch_size=64)), 12, {"optimization.batch_size"}),
        (TrainingParameters(), 3, set()),
    ],
)
def test_only_what_must_change_is_named_and_with_it_the_job_fits(
    asked: TrainingParameters, gigabytes: int, names: set[str]
) -> None:
    place = Place(DeviceClass.CUDA, gigabytes * GB)
    assert memory_of(asked, place=place).most > place.memory_bytes
    found = changes_that_fit(SEVEN_B, CLIPS, asked, place)
    assert set(found) - {"optimization.batch_size"} == names - {"optimization.batch_size"}
    assert names <= set(found)
    changed = asked
    for name, value in found.items():
        part, field = name.split(".")
        changed = replace(changed, **{part: replace(getattr(changed, part), **{field: value})})
    assert not found or memory_of(changed, place=place).most <= place.memory_bytes


def test_nothing_that_a_trainer_cannot_do_is_said_to_help() -> None:
    asked = TrainingParameters(quantization=QuantizationParameters(QuantizationType.NONE))
    assert changes_that_fit(SEVEN_B, CLIPS, asked, Place(DeviceClass.CUDA, 16 * GB), can_train_4bit=False) == {}


@settings(deadline=None)
@given(parameters, models, datasets, places)
def test_what_a_job_takes_at_the_least_is_the_sum_of_its_parts(
    asked: TrainingParameters, model: ModelShape, dataset: DatasetShape, place: Place
) -> None:
    memory = memory_of(asked, model, dataset, place)
    assert memory.least == min(memory.total, sum(size for _, size in memory.least_parts))


def test_rows_longer_than_the_model_takes_are_named_longest_first() -> None:
    short = replace(SEVEN_B, context_length=5000, frame_rule=RULES[2])
    sampling = SamplingParameters(max_frames=32)
    (first, tokens), (second, fewer) = rows_over_context(short, CLIPS, sampling)
    assert (first.sample_id, second.sample_id) == ("long", "pair")
    assert tokens > fewer > 5000
    within = most_frames_within_context(short, CLIPS, sampling)
    assert 0 < within < 32
    assert not rows_over_context(short, CLIPS, replace(sampling, max_frames=within))


def test_what_is_not_certain_exceeds_no_context() -> None:
    sampling = SamplingParameters(max_frames=32)
    for rule in (None, RULES[3]):
        assert not rows_over_context(replace(SEVEN_B, context_length=10, frame_rule=rule), CLIPS, sampling)
    assert not rows_over_context(replace(SEVEN_B, context_length=0), CLIPS, sampling)


def test_a_row_that_says_something_of_its_clip_goes_before_the_sampling() -> None:
    own = DatasetShape((RowShape(1, (replace(CLIPS.shapes[0].clips[0], max_frames=2, max_pixels=12544),)),))
    less = count_tokens(SEVEN_B, own, SamplingParameters(max_frames=64))
    more = count_tokens(SEVEN_B, replace(CLIPS, shapes=CLIPS.shapes[:1]), SamplingParameters(max_frames=64))
    assert less is not None
    assert more is not None
    assert less.largest.frames == 2
    assert less.largest.visual < more.largest.visual


def test_time_is_told_only_where_a_speed_was_measured_and_says_what_it_goes_into() -> None:
    tokens = count_tokens(SEVEN_B, CLIPS, SamplingParameters())
    assert estimate_duration(SEVEN_B, tokens, TrainingParameters(), GPU) is None
    fast = Place(DeviceClass.CUDA, 24 * GB, matmul_flops=1e14, decode_pixels=1e7)
    duration = estimate_duration(SEVEN_B, tokens, TrainingParameters(), fast)
    assert duration is not None
    assert duration.steps == total_steps(TrainingParameters(), 100) == 75
    assert duration.dominant is Effort.DECODING, "each clip of 900 frames is decoded for eight"
    slow = estimate_duration(SEVEN_B, tokens, TrainingParameters(), replace(fast, matmul_flops=1e11))
    assert slow is not None
    assert slow.dominant is Effort.LANGUAGE
    assert slow.total > duration.total


@given(st.integers(1, 10**6))
def test_larger_vocabularies_have_longer_tokens(vocabulary: int) -> None:
    assert 1.0 <= characters_per_token(vocabulary) <= characters_per_token(vocabulary + 1000) <= 3.5


def test_patterns_bound_the_adapter_for_no_layer_is_at_hand_to_hold_them_against() -> None:
    plain = LoraParameters(rank=16)
    higher = replace(plain, layer_patterns=(LayerPattern("*q_proj", rank=64), LayerPattern("*k_proj", alpha=8.0)))
    lower = replace(plain, layer_patterns=(LayerPattern("*mlp*", rank=4),))
    assert adapter_parameters(SEVEN_B, higher) == 4 * adapter_parameters(SEVEN_B, plain)
    assert adapter_parameters(SEVEN_B, lower) == adapter_parameters(SEVEN_B, plain)
    usual, raised, lowered = (memory_of(TrainingParameters(lora=lora)) for lora in (plain, higher, lower))
    assert raised.of(MemoryPart.OPTIMIZER) == 4 * usual.of(MemoryPart.OPTIMIZER)
    # What a job surely takes is counted at the lowest rank of any layer.
    assert raised.least == usual.least
    assert lowered.least < usual.least
    assert lowered.total == usual.total


def test_dora_trains_a_magnitude_for_each_row_and_takes_memory_and_time_for_norms() -> None:
    plain, dora = LoraParameters(), LoraParameters(use_dora=True)
    assert adapter_parameters(SEVEN_B, dora) - adapter_parameters(SEVEN_B, plain) == SEVEN_B.language.linear_outputs
    usual, scaled = (memory_of(TrainingParameters(lora=lora)) for lora in (plain, dora))
    assert scaled.of(MemoryPart.ACTIVATIONS) > usual.of(MemoryPart.ACTIVATIONS)
    assert scaled.of(MemoryPart.ADAPTER) > usual.of(MemoryPart.ADAPTER)
    assert seconds_of(TrainingParameters(lora=dora)) > 1.5 * seconds_of(TrainingParameters(lora=plain))
    # Without dropout it takes the frozen weights' product from the layer.
    undropped = replace(dora, dropout=0.0)
    assert seconds_of(TrainingParameters(lora=undropped)) < 1.5 * seconds_of(TrainingParameters(lora=plain))
    whole = replace(TrainingParameters(), optimization=OptimizationParameters(gradient_checkpointing=False))
    kept = [memory_of(replace(whole, lora=lora)).of(MemoryPart.ACTIVATIONS) for lora in (dora, plain)]
    assert kept[0] - kept[1] > 2 * SEVEN_B.language.linear_parameters


@pytest.mark.parametrize(
    ("device", "compute_type", "copied"),
    [
        (DeviceClass.CPU, ComputeType.AUTO, 0),
        (DeviceClass.CPU, ComputeType.BF16, 2),
        (DeviceClass.CUDA, ComputeType.AUTO, 2),
        (DeviceClass.CUDA, ComputeType.FP32, 0),
    ],
)
def test_dora_copies_no_weights_that_are_in_32_bits_anyhow(
    device: DeviceClass, compute_type: ComputeType, copied: int
) -> None:
    """Else a job would be refused for memory that it does not take."""
    whole = OptimizationParameters(gradient_checkpointing=False)
    asked = TrainingParameters(lora=LoraParameters(use_dora=True), optimization=whole)
    packed, plain = (
        memory_of(
            replace(asked, quantization=QuantizationParameters(kind, compute_type=compute_type)), place=Place(device)
        )
        for kind in (QuantizationType.NF4, QuantizationType.NONE)
    )
    spared = 0 if copied else 4 * SEVEN_B.language.linear_parameters
    assert packed.of(MemoryPart.ACTIVATIONS) - plain.of(MemoryPart.ACTIVATIONS) == spared
    least = [
        memory.least - memory.of(MemoryPart.QUANTIZED_WEIGHTS) - memory.of(MemoryPart.UNQUANTIZED_WEIGHTS)
        for memory in (packed, plain)
    ]
    assert least[0] - least[1] == pytest.approx(0.85 * spared, abs=10)


def test_doras_identity_matrix_is_counted_but_refuses_nothing() -> None:
    halved = replace(SEVEN_B, language=replace(SEVEN_B.language, width=SEVEN_B.language.width // 2))
    dora, dora_wide, plain, plain_wide = (
        memory_of(TrainingParameters(lora=LoraParameters(use_dora=use_dora)), model)
        for use_dora in (True, False)
        for model in (SEVEN_B, halved)
    )
    # Inputs that are 24,414 numbers wide instead of 12,207, in 32 bits; all else by token is the same without DoRA.
    more = 4 * (24_414**2 - 12_207**2)
    assert (dora_wide.total - plain_wide.total) - (dora.total - plain.total) == pytest.approx(more, abs=4)
    assert (dora_wide.least - plain_wide.least) - (dora.least - plain.least) == pytest.approx(0, abs=4)


def test_kept_outputs_of_the_encoder_spare_later_passes_decoding_and_vision() -> None:
    rows = CLIPS.rows
    once, thrice = (
        TrainingParameters(optimization=OptimizationParameters(batch_size=4, max_steps=passes * rows // 4))
        for passes in (1, 3)
    )
    first, later = duration_of(once), duration_of(thrice)
    for effort in (Effort.DECODING, Effort.VISION):
        assert dict(later.efforts)[effort] == pytest.approx(dict(first.efforts)[effort])
    language = dict(first.efforts)[Effort.LANGUAGE]
    assert dict(later.efforts)[Effort.LANGUAGE] == pytest.approx(3 * language)
    assert later.total == pytest.approx(first.total + 2 * language)
    assert later.step_seconds == first.step_seconds
    for spoiled in (
        replace(thrice, speed=SpeedParameters(EncoderCache.OFF)),
        replace(thrice, sampling=SamplingParameters(placement=FramePlacement.SEGMENT_JITTER)),
        replace(thrice, lora=LoraParameters(target_groups=(ModuleGroup.LANGUAGE, ModuleGroup.PROJECTOR))),
    ):
        decoding = dict(duration_of(spoiled).efforts)[Effort.DECODING]
        assert decoding == pytest.approx(3 * dict(first.efforts)[Effort.DECODING])


def test_a_step_holds_no_more_than_an_epoch() -> None:
    whole, more = (
        TrainingParameters(
            optimization=OptimizationParameters(batch_size=batch, gradient_accumulation_steps=accumulation)
        )
        for batch, accumulation in ((CLIPS.rows, 1), (1024, 1024))
    )
    assert duration_of(more) == duration_of(whole)
    assert memory_of(more) == memory_of(whole)
    # 100 rows by 64 are two steps: as many samples, at one pass more over the weights.
    uneven = duration_of(TrainingParameters(optimization=OptimizationParameters(batch_size=64)))
    assert uneven.steps == 2 * duration_of(whole).steps
    assert uneven.step_seconds == pytest.approx(duration_of(whole).step_seconds / 2, rel=0.1)


def test_devices_of_one_processor_gain_nothing() -> None:
    asked = TrainingParameters(optimization=OptimizationParameters(batch_size=8))
    cpu = Place(DeviceClass.CPU, matmul_flops=1e11)
    assert duration_of(asked, cpu, devices=2) == duration_of(asked, cpu)
    gpu = replace(cpu, device_class=DeviceClass.CUDA)
    assert duration_of(asked, gpu, devices=2).step_seconds < 0.6 * duration_of(asked, gpu).step_seconds
    assert duration_of(asked, replace(gpu, is_emulated=True), devices=2) == duration_of(asked, gpu)


FAST = replace(GPU, matmul_flops=1e13, decode_pixels=1e7)


def duration_of(asked: TrainingParameters, place: Place = FAST, *, devices: int = 1) -> Duration:
    found = estimate_duration(SEVEN_B, count_tokens(SEVEN_B, CLIPS, asked.sampling), asked, place, devices)
    assert found is not None
    return found


def seconds_of(asked: TrainingParameters) -> float:
    return dict(duration_of(asked).efforts)[Effort.LANGUAGE]
