"""Samples whose frames are other ones in each epoch: which, is a pure function of seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from trainer_svc.qlora.dataset_rows import Clip, Sample
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.qlora.spec import TrainingSpec


class NumberedSamples(Protocol):
    """Where a sample is taken from by its number: those of a dataset, or of all its epochs."""

    def __getitem__(self, number: int, /) -> Sample: ...


class EpochSamples:
    """The samples of all epochs, one after another: number `epoch * count + index`. Their clips carry what the places
    of their frames are drawn from, so that whoever keeps frames of a clip never takes those of another epoch for them.
    """

    def __init__(self, samples: Sequence[Sample], seed: int) -> None:
        self._samples = samples
        self._seed = seed

    def __getitem__(self, number: int, /) -> Sample:
        epoch, index = divmod(number, len(self._samples))
        sample = self._samples[index]
        place = 0
        turns = []
        for turn in sample.turns:
            parts: list[str | Clip] = []
            for part in turn.parts:
                if isinstance(part, Clip):
                    part = replace(part, draw=f"{self._seed}/{epoch}/{sample.sample_id}/{place}")
                    place += 1
                parts.append(part)
            turns.append(replace(turn, parts=tuple(parts)))
        return replace(sample, turns=tuple(turns))


def samples_and_groups(
    samples: Sequence[Sample], plan: SamplePlan, steps: Iterable[int], spec: TrainingSpec
) -> tuple[NumberedSamples, Iterator[list[int]]]:
    """(what to take samples from, the micro-batches of `steps` as numbers into it)."""
    if spec.sampling.placement != "segment_jitter":
        return samples, (group for step in steps for group in plan.micro_batches(step))
    return EpochSamples(samples, spec.optimization.seed), (
        [plan.epoch_of(step) * len(samples) + index for index in group]
        for step in steps
        for group in plan.micro_batches(step)
    )


def frame_cache_bytes(spec: TrainingSpec) -> int:
    """Memory for decoded frames: none where no epoch will meet those of another."""
    return 0 if spec.sampling.placement == "segment_jitter" else spec.runtime.frame_cache_mib << 20
