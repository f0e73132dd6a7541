"""Whether a job fits a device, and what would."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from scheduler_svc.domain.estimate.effort import Duration, estimate_duration
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape
from scheduler_svc.domain.estimate.memory import Memory, estimate_memory
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import count_tokens, rows_over_context
from scheduler_svc.domain.parameters import QuantizationType, SamplingParameters, TrainingParameters

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768)
_PIXELS = (56 * 56, 112 * 112, 168 * 168, 224 * 224, 336 * 336, 448 * 448, 672 * 672, 896 * 896, 0)
"""Of a frame, from few to all that the model's processor takes."""
_RANKS = (256, 64, 16)


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


def estimate_job(
    model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place, device_count: int = 1
) -> Estimate:
    """Returns what a job takes on a device, of `device_count` that work on it together."""
    tokens = count_tokens(model, dataset, parameters.sampling)
    memory = estimate_memory(model, tokens, parameters, place, device_count)
    fit = judge(memory, place.memory_bytes)
    suggestion = None
    if fit in (Fit.TIGHT, Fit.EXCEEDS):
        suggestion = most_that_fits(model, dataset, parameters, place, device_count)
    duration = estimate_duration(model, tokens, parameters, place, device_count)
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
    model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place, device_count: int = 1
) -> Suggestion | None:
    """Returns the largest frames × pixels × batch that surely fit, none above what is asked.

    What a sample shows goes before how many are in a batch, for gradients can be accumulated: first the batch gives
    way, then the pixels of a frame, then the frames. Both are found by halves: fewer of them never take more.
    """
    asked = parameters.sampling
    steps, sizes = list(_down_from(asked.max_frames, _FRAMES)), list(_pixels_down_from(asked.max_pixels))

    def found(frames: int, pixels: int) -> Suggestion | None:
        wanted = replace(parameters, sampling=replace(asked, max_frames=frames, max_pixels=pixels))
        return _largest_batch(model, dataset, wanted, place, device_count)

    at = bisect.bisect_left(steps, True, key=lambda frames: found(frames, sizes[-1]) is not None)
    if at == len(steps):
        return None
    size = bisect.bisect_left(sizes, True, key=lambda pixels: found(steps[at], pixels) is not None)
    return found(steps[at], sizes[min(size, len(sizes) - 1)])


def changes_that_fit(
    model: ModelShape,
    dataset: DatasetShape,
    parameters: TrainingParameters,
    place: Place,
    device_count: int = 1,
    *,
    can_train_4bit: bool = True,
) -> dict[str, int | str]:
    """Returns parameters by name, as the contract has them, with values with which a job surely fits: what is shown, as
    long as that is enough, else how it is trained; empty where nothing helps. None has the value that is asked."""
    tried: dict[str, int | str] = {}
    for name, value, changed in (("", "", parameters), *_smaller(parameters, can_train_4bit=can_train_4bit)):
        tried |= {name: value} if name else {}
        found = most_that_fits(model, dataset, changed, place, device_count)
        if found is not None:
            shown = {
                "sampling.max_frames": (found.max_frames, parameters.sampling.max_frames),
                "sampling.max_pixels": (found.max_pixels, parameters.sampling.max_pixels),
                "optimization.batch_size": (found.batch_size, parameters.optimization.batch_size),
            }
            return tried | {each: fitting for each, (fitting, asked) in shown.items() if fitting != asked}
    return {}


def _smaller(
    parameters: TrainingParameters, *, can_train_4bit: bool
) -> Iterator[tuple[str, int | str, TrainingParameters]]:
    """The same job with more and more of what saves memory: each time what has changed, to what, and all of it."""
    if parameters.quantization.type is QuantizationType.NONE and can_train_4bit:
        quantization = replace(parameters.quantization, type=QuantizationType.NF4)
        parameters = replace(parameters, quantization=quantization)
        yield "quantization.type", QuantizationType.NF4.value, parameters
    if not parameters.optimization.gradient_checkpointing:
        optimization = replace(parameters.optimization, gradient_checkpointing=True)
        parameters = replace(parameters, optimization=optimization)
        yield "optimization.gradient_checkpointing", "true", parameters
    for rank in _RANKS:
        # Where ranks differ they are chosen one by one, and so are not taken away by one number.
        if rank < parameters.lora.rank == parameters.lora.highest_rank:
            parameters = replace(parameters, lora=replace(parameters.lora, rank=rank))
            yield "lora.rank", rank, parameters
    if parameters.lora.use_dora:
        yield "lora.use_dora", "false", replace(parameters, lora=replace(parameters.lora, use_dora=False))


def most_frames_within_context(model: ModelShape, dataset: DatasetShape, sampling: SamplingParameters) -> int:
    """Returns a number of frames with which no row is certainly longer than the model takes; 0 where none is."""
    for frames in _down_from(sampling.max_frames, _FRAMES):
        if not rows_over_context(model, dataset, replace(sampling, max_frames=frames)):
            return frames
    return 0


def _largest_batch(
    model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place, device_count: int
) -> Suggestion | None:
    tokens = count_tokens(model, dataset, parameters.sampling)
    if tokens is None:
        return None
    sampling, optimization = parameters.sampling, parameters.optimization
    if model.context_length and tokens.largest.total > model.context_length:
        return None
    for batch in _down_from(optimization.batch_size, _BATCHES):
        if batch * optimization.gradient_accumulation_steps < device_count:
            return None
        sized = replace(parameters, optimization=replace(optimization, batch_size=batch))
        memory = estimate_memory(model, tokens, sized, place, device_count)
        if memory.most <= place.memory_bytes:
            return Suggestion(sampling.max_frames, sampling.max_pixels, batch, memory.total)
    return None


def _down_from(first: int, steps: Iterable[int]) -> Iterator[int]:
    yield first
    yield from sorted((step for step in steps if step < first), reverse=True)


def _pixels_down_from(first: int) -> Iterator[int]:
    """0 stands for the most."""
    yield first
    yield from sorted((step for step in _PIXELS if step and (not first or step < first)), reverse=True)
