"""Whether a job fits a device, and what would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from scheduler_svc.domain.estimate.effort import Duration, estimate_duration
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape
from scheduler_svc.domain.estimate.memory import Memory, estimate_memory
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import count_tokens, rows_over_context
from scheduler_svc.domain.parameters import SamplingParameters, TrainingParameters

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
_PIXELS = (56 * 56, 112 * 112, 168 * 168, 224 * 224, 336 * 336, 448 * 448, 672 * 672, 896 * 896, 0)
"""Of a frame, from few to all that the model's processor takes."""


class Fit(StrEnum):
    """Whether a job fits; the names are those of the contract."""

    UNKNOWN = "UNKNOWN"
    """Too little is known to say."""
    FITS = "FITS"
    TIGHT = "TIGHT"
    """It may fit: within the error of the estimate."""
    EXCEEDS = "EXCEEDS"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Values with which a job fits."""

    max_frames: int
    max_pixels: int
    """0: as the model's processor has it."""
    batch_size: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job takes on one device."""

    place: Place
    memory: Memory
    duration: Duration | None
    fit: Fit
    suggestion: Suggestion | None
    """Where the job does not surely fit: the most frames, pixels and rows a batch that do, as near to what was asked as
    can be. None where not even the least does, or nothing can be said."""


def estimate_job(model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place) -> Estimate:
    """Returns what a job takes on a device."""
    tokens = count_tokens(model, dataset, parameters.sampling)
    memory = estimate_memory(model, tokens, parameters, place)
    fit = judge(memory, place.memory_bytes)
    suggestion = None
    if fit in (Fit.TIGHT, Fit.EXCEEDS):
        suggestion = most_that_fits(model, dataset, parameters, place)
    duration = estimate_duration(model, dataset, tokens, parameters, place)
    return Estimate(place, memory, duration, fit, suggestion)


def judge(memory: Memory, memory_bytes: int) -> Fit:
    """Returns whether a job fits into so much memory; 0 where that is not known."""
    if not memory_bytes:
        return Fit.UNKNOWN
    if memory.least > memory_bytes:
        return Fit.EXCEEDS
    if not memory.is_complete:
        return Fit.UNKNOWN
    return Fit.FITS if memory.most <= memory_bytes else Fit.TIGHT


def most_that_fits(
    model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place
) -> Suggestion | None:
    """Returns the largest frames × pixels × batch that surely fit, none above what is asked.

    What a sample shows goes before how many are in a batch, for gradients can be accumulated: first the batch gives
    way, then the pixels of a frame, then the frames.
    """
    asked, batch = parameters.sampling, parameters.optimization.batch_size
    for frames in _down_from(asked.max_frames, _FRAMES):
        for pixels in _pixels_down_from(asked.max_pixels):
            found = _largest_batch(model, dataset, _with(parameters, frames, pixels, 1), place, batch)
            if found is not None:
                return found
    return None


def most_frames_within_context(model: ModelShape, dataset: DatasetShape, sampling: SamplingParameters) -> int:
    """Returns a number of frames with which no row is certainly longer than the model takes; 0 where none is."""
    for frames in _down_from(sampling.max_frames, _FRAMES):
        if not rows_over_context(model, dataset, replace(sampling, max_frames=frames)):
            return frames
    return 0


def _largest_batch(
    model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place, most: int
) -> Suggestion | None:
    tokens = count_tokens(model, dataset, parameters.sampling)
    if tokens is None:
        return None
    sampling = parameters.sampling
    if model.context_length and tokens.largest.total > model.context_length:
        return None

    def memory_of(batch: int) -> Memory:
        sized = replace(parameters, optimization=replace(parameters.optimization, batch_size=batch))
        return estimate_memory(model, tokens, sized, place)

    for batch in _down_from(most, _BATCHES):
        memory = memory_of(batch)
        if memory.most <= place.memory_bytes:
            return Suggestion(sampling.max_frames, sampling.max_pixels, batch, memory.total)
    return None


def _with(parameters: TrainingParameters, frames: int, pixels: int, batch: int) -> TrainingParameters:
    return replace(
        parameters,
        sampling=replace(parameters.sampling, max_frames=frames, max_pixels=pixels),
        optimization=replace(parameters.optimization, batch_size=batch),
    )


def _down_from(first: int, steps: Iterable[int]) -> Iterator[int]:
    yield first
    yield from sorted((step for step in steps if step < first), reverse=True)


def _pixels_down_from(first: int) -> Iterator[int]:
    """0 stands for the most."""
    yield first
    yield from sorted((step for step in _PIXELS if step and (not first or step < first)), reverse=True)
