"""Segment jitter: a pure function of seed, epoch and sample, and never another epoch's frames."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np

from trainer_svc.qlora.batch_stream import FrameSource
from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.epoch_samples import EpochSamples, frame_cache_bytes, samples_and_groups
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.frame_sampling import FrameRequest, select_frames
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.qlora.spec import TrainingSpec

JITTER = TrainingSpec().with_overrides(["sampling.placement=segment_jitter", "optimization.seed=5"])
TIMES = [index / 10 for index in range(200)]


def sample(name: str) -> Sample:
    parts = (Clip(Path("a.mp4")), "which?", Clip(Path("a.mp4")))
    return Sample(name, "train", (Turn("user", parts), Turn("assistant", ("this",))))


SAMPLES = [sample(f"s{number}") for number in range(5)]
PLAN = SamplePlan(samples=5, batch_size=2, accumulation=1, seed=5)


def frames_of(clip: Clip, spec: TrainingSpec = JITTER) -> list[int]:
    return select_frames(TIMES, clip.frame_request(spec.sampling))


def test_frames_depend_on_seed_epoch_sample_and_place_and_on_nothing_else() -> None:
    several = EpochSamples(SAMPLES, 5)
    first, second = several[0].clips
    assert frames_of(first) != frames_of(second)
    assert several[0] == EpochSamples(SAMPLES, 5)[0]
    others = [several[1].clips[0], several[5].clips[0], EpochSamples(SAMPLES, 6)[0].clips[0]]
    assert all(frames_of(other) != frames_of(first) for other in others)
    # Whatever the sample's index is: rows may be added before it.
    moved = EpochSamples([sample("new"), *SAMPLES], 5)
    assert moved[1].clips == several[0].clips
    assert several[7].sample_id == "s2"


def test_steps_take_the_samples_of_their_epoch_wherever_a_run_goes_on() -> None:
    samples, groups = samples_and_groups(SAMPLES, PLAN, range(6), JITTER)
    taken = list(groups)
    assert [[number % 5 for number in group] for group in taken] == [
        group for step in range(6) for group in PLAN.micro_batches(step)
    ]
    assert [{number // 5 for number in group} for group in taken] == [{0}, {0}, {0}, {1}, {1}, {1}]
    _, later = samples_and_groups(SAMPLES, PLAN, range(4, 6), JITTER)
    assert list(later) == taken[4:]
    assert samples[taken[4][0]].clips[0].draw


def test_without_jitter_nothing_is_drawn() -> None:
    spec = TrainingSpec()
    samples, groups = samples_and_groups(SAMPLES, PLAN, range(6), spec)
    assert samples is SAMPLES
    assert list(groups) == [group for step in range(6) for group in PLAN.micro_batches(step)]
    drawn = EpochSamples(SAMPLES, 5)[0].clips[0]
    assert drawn.frame_request(spec.sampling) == SAMPLES[0].clips[0].frame_request(spec.sampling)


def test_evaluation_inference_and_preview_see_the_middle_of_each_segment() -> None:
    assert frames_of(SAMPLES[0].clips[0]) == [12, 37, 62, 87, 112, 137, 162, 187]


class _Pool:
    """Gives frames that tell which request they were decoded for."""

    def __init__(self) -> None:
        self.decoded: list[FrameRequest] = []

    def decode(self, clip: Path | str, request: FrameRequest) -> Future[DecodedFrames]:
        self.decoded.append(request)
        chosen = select_frames(TIMES, request)
        result: Future[DecodedFrames] = Future()
        frames = np.zeros((len(chosen), 2, 2, 3), dtype=np.uint8)
        result.set_result(DecodedFrames(frames, tuple(TIMES[i] for i in chosen), 200, 200, 10.0, 20.0))
        return result


def test_a_cache_never_gives_one_epoch_the_frames_of_another() -> None:
    pool = _Pool()
    source = FrameSource(cast(Any, pool), JITTER.sampling, cache_bytes=1 << 20)
    several = EpochSamples(SAMPLES, 5)
    taken = [source.take(several[number].clips[0], lambda: None).timestamps for number in (0, 5, 0, 10)]
    assert len(set(taken)) == 3
    assert taken[0] == taken[2]
    assert len(pool.decoded) == 3
    # And memory is not filled with what nobody will ask for again.
    assert frame_cache_bytes(JITTER) == 0
    assert frame_cache_bytes(TrainingSpec()) == 256 << 20
