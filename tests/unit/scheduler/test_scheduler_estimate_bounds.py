"""What refuses jobs is a lower bound: of the rows, of the weights that devices share, and for numbers of no model."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from reeltune.catalog.v1 import frame_rule_pb2, model_pb2

from scheduler_svc.clients.catalog_shapes import model_shape_from_proto
from scheduler_svc.domain.estimate.facts import DatasetShape, FrameBudget, FrameRule, RowShape, ShapeClip
from scheduler_svc.domain.estimate.fit import most_that_fits
from scheduler_svc.domain.estimate.memory import Memory, MemoryPart, estimate_memory, samples_in_pass
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import characters_per_token, clip_tokens, count_tokens
from scheduler_svc.domain.job import DeviceClass
from scheduler_svc.domain.parameters import (
    BaseSharing,
    OptimizationParameters,
    Optimizer,
    SamplingParameters,
    TrainingParameters,
)
from scheduler_svc.domain.training_options import SamplePredictions
from scheduler_svc.usecases.check_fit import _remedy
from scheduler_svc.usecases.search import search, search_for_submission
from tests.unit.scheduler.test_scheduler_estimate import CLIPS, GB, GPU, QWEN3_VL, SEVEN_B

WIDE, SMALL = ShapeClip(1280, 720, 900, 30.0), ShapeClip(64, 64, 8, 8.0)
ONE_IS_LARGE = DatasetShape(
    (RowShape(1, (WIDE,), "large", 900.0), RowShape(999, (SMALL,), "small", 8.0)), rows=1000, max_text=100
)
ALL_ARE_LARGE = DatasetShape((RowShape(1000, (WIDE,), "large", 900.0),), rows=1000, max_text=100)
BIG_BATCH = TrainingParameters(
    sampling=SamplingParameters(max_frames=64), optimization=OptimizationParameters(batch_size=16)
)


def memory_of(asked: TrainingParameters, dataset: DatasetShape, place: Place = GPU, *, devices: int = 1) -> Memory:
    return estimate_memory(SEVEN_B, count_tokens(SEVEN_B, dataset, asked.sampling), asked, place, devices)


def test_one_large_row_is_not_counted_for_each_of_a_batch() -> None:
    single, all_of_them = memory_of(BIG_BATCH, ONE_IS_LARGE), memory_of(BIG_BATCH, ALL_ARE_LARGE)
    assert single.total == all_of_them.total, "a batch of such rows is possible as far as sizes tell"
    weights = memory_of(replace(BIG_BATCH, sampling=SamplingParameters(max_frames=2)), ONE_IS_LARGE).least
    assert single.least - weights < (all_of_them.least - weights) / 4


def test_a_shape_whose_longest_row_is_an_exception_counts_by_its_mean() -> None:
    mostly_short = DatasetShape((RowShape(1000, (WIDE,), "large", 16.0),), rows=1000, max_text=100)
    assert memory_of(BIG_BATCH, mostly_short).least < memory_of(BIG_BATCH, ALL_ARE_LARGE).least


def test_the_words_of_one_row_do_not_come_on_top_of_anothers_frames() -> None:
    talkative = replace(ONE_IS_LARGE, max_text=600, mean_text=100.0)
    one = replace(BIG_BATCH, optimization=OptimizationParameters(batch_size=1))
    assert memory_of(one, talkative).least == memory_of(one, ONE_IS_LARGE).least
    assert memory_of(one, talkative).total > memory_of(one, ONE_IS_LARGE).total


def test_a_job_that_sees_few_rows_may_not_see_the_large_one() -> None:
    few = replace(
        BIG_BATCH, optimization=OptimizationParameters(batch_size=1, gradient_accumulation_steps=1, max_steps=5)
    )
    whole = replace(few, optimization=replace(few.optimization, max_steps=1000))
    assert memory_of(few, ONE_IS_LARGE).least < memory_of(whole, ONE_IS_LARGE).least
    assert memory_of(few, ALL_ARE_LARGE).least == memory_of(whole, ALL_ARE_LARGE).least


def test_state_that_may_leave_the_device_refuses_nothing() -> None:
    kept, paged = (
        memory_of(replace(BIG_BATCH, optimization=replace(BIG_BATCH.optimization, optimizer=optimizer)), ALL_ARE_LARGE)
        for optimizer in (Optimizer.ADAMW, Optimizer.PAGED_ADAMW)
    )
    assert kept.least - paged.least == kept.of(MemoryPart.OPTIMIZER)
    assert kept.total == paged.total


def test_a_vocabulary_that_nobody_knows_has_long_tokens() -> None:
    assert characters_per_token(0) == 3.5


@pytest.mark.parametrize(("devices", "samples"), [(1, 8), (2, 8), (3, 6), (4, 4), (16, 1)])
def test_devices_share_the_samples_of_a_step(devices: int, samples: int) -> None:
    asked = replace(BIG_BATCH, optimization=OptimizationParameters(batch_size=8, gradient_accumulation_steps=2))
    assert samples_in_pass(asked, 1000, devices) == samples
    assert samples_in_pass(asked, 3, devices) == -(-3 // devices)


def test_devices_share_the_language_model_unless_told_not_to() -> None:
    asked = replace(BIG_BATCH, optimization=OptimizationParameters(batch_size=1, gradient_accumulation_steps=8))
    alone = memory_of(asked, CLIPS)
    shared = memory_of(replace(asked, base_sharing=BaseSharing.ON), CLIPS, devices=4)
    whole = memory_of(replace(asked, base_sharing=BaseSharing.OFF), CLIPS, devices=4)
    part = MemoryPart.QUANTIZED_WEIGHTS
    assert shared.of(part) == pytest.approx(alone.of(part) * (1 / 4 + 1 / 36), rel=1e-3)
    assert (whole.of(part), whole.least) == (alone.of(part), alone.least)
    # By default the trainer decides: whole here, for all that a device surely has is a share.
    undecided = memory_of(asked, CLIPS, devices=4)
    assert (undecided.of(part), undecided.least) == (alone.of(part), shared.least)
    assert memory_of(asked, CLIPS, Place(DeviceClass.CUDA, 8 * GB), devices=4).of(part) == shared.of(part)
    assert memory_of(replace(asked, base_sharing=BaseSharing.ON), CLIPS).of(part) == alone.of(part), "with nobody"
    # What needs whole layers goes before an undecided sharing, however small the device.
    answering = replace(asked, sample_predictions=SamplePredictions(1))
    kept = memory_of(answering, CLIPS, Place(DeviceClass.CUDA, 8 * GB), devices=4)
    assert (kept.of(part), kept.least) == (alone.of(part), alone.least)


def test_what_is_suggested_leaves_every_device_a_sample() -> None:
    asked = replace(BIG_BATCH, optimization=OptimizationParameters(batch_size=16, gradient_accumulation_steps=1))
    for gigabytes in (8, 10, 12, 16, 24):
        found = most_that_fits(SEVEN_B, CLIPS, asked, Place(DeviceClass.CUDA, gigabytes * GB), 4)
        assert found is None or found.batch_size >= 4


@pytest.mark.parametrize(
    "fields", [{"frames_per_patch": 10**9}, {"merge_size": 0}, {"patch_size": 0}, {"max_pixels": 1 << 40}]
)
def test_a_stored_rule_with_numbers_of_no_model_is_not_known(fields: dict[str, int]) -> None:
    sound: dict[str, Any] = {
        "patch_size": 16,
        "frames_per_patch": 2,
        "merge_size": 2,
        "min_pixels": 131072,
        "max_pixels": 786432,
    }
    language = model_pb2.ModelPart(
        kind=model_pb2.MODEL_PART_KIND_LANGUAGE, linear_layer_count=1, layer_count=1, width=8
    )
    budget = frame_rule_pb2.FRAME_BUDGET_ALL_FRAMES

    def rule_of(rule: frame_rule_pb2.FrameRule) -> object:
        shape = model_shape_from_proto(model_pb2.ModelFacts(parts=[language], frame_rule=rule))
        return None if shape is None else shape.frame_rule

    assert rule_of(frame_rule_pb2.FrameRule(budget=budget, **sound)) is not None
    assert rule_of(frame_rule_pb2.FrameRule(budget=budget, **{**sound, **fields})) is None


def test_no_number_of_frames_makes_a_table_without_end() -> None:
    asked = SamplingParameters(max_frames=1 << 40)
    clip = ShapeClip(64, 64, 1 << 40, 30.0)
    counts = count_tokens(SEVEN_B, DatasetShape((RowShape(1, (clip,)),)), asked)
    assert counts is not None
    assert counts.largest.visual == clip_tokens(QWEN3_VL, clip, asked)


def test_rows_are_counted_once_for_all_devices_that_are_asked_about() -> None:
    asked = replace(BIG_BATCH, sampling=SamplingParameters(max_frames=48))
    count_tokens.cache_clear()
    for gigabytes in range(6, 22):
        most_that_fits(SEVEN_B, ONE_IS_LARGE, asked, Place(DeviceClass.CUDA, gigabytes * GB))
    found = count_tokens.cache_info()
    assert found.hits > found.misses
    assert found.misses <= 7 * 9, "so many numbers of frames and of pixels there are to suggest"


async def test_searches_are_done_beside_the_event_loop_two_at_once() -> None:
    both = threading.Barrier(2, timeout=60)
    await asyncio.gather(*(search(both.wait) for _ in range(2)))
    names = await asyncio.gather(*(search(lambda: threading.current_thread().name) for _ in range(8)))
    assert len(set(names)) <= 2
    assert threading.current_thread().name not in names


async def test_estimates_keep_no_job_from_being_judged() -> None:
    release = threading.Event()
    estimates = [asyncio.create_task(search(release.wait, 60)) for _ in range(5)]
    assert await search_for_submission(lambda: not release.is_set())
    release.set()
    assert all(await asyncio.gather(*estimates))


def test_what_is_said_to_help_with_rows_that_are_too_long_can_help() -> None:
    def remedy(rule: FrameRule, **of_row: int) -> str:
        longest = RowShape(1, (replace(WIDE, **of_row),), "long", 900.0)
        return _remedy(replace(SEVEN_B, frame_rule=rule), longest)

    fixed = FrameRule(FrameBudget.FIXED, tokens_per_frame=64)
    assert "sampling.max_pixels" in remedy(QWEN3_VL)
    assert "max_pixels" not in remedy(fixed)
    assert "max_frames that such rows set" in remedy(fixed, max_frames=700)
