"""How long a job takes, and what most of that goes into.

Counted in operations: a token costs a part's forward pass two for each weight, and its attention to the others of its
row. A frozen part that nothing trained lies below runs forward only; all others once more for the gradients of what
goes into them (their frozen weights need none) and, with checkpointing, once more again. Weights in 4 bits are unpacked
for each pass, and DoRA takes their norms. Speeds are those that the trainer's probe has measured; what is reached of
them, and what unpacking and norms cost, was fitted to runs on CPUs (`benchmarks/estimate_error.py`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from enum import StrEnum

from scheduler_svc.domain.adapter_parameters import ModuleGroup
from scheduler_svc.domain.estimate.facts import ModelShape
from scheduler_svc.domain.estimate.memory import adapter_parameters, is_quantized, part_of
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import TokenCounts
from scheduler_svc.domain.parameters import TrainingParameters
from scheduler_svc.domain.speed_parameters import EncoderCache
from scheduler_svc.domain.training_options import FramePlacement

_EFFICIENCY = 0.5
"""Share of a large matrix product's speed that training reaches."""
_UNPACKING = 20.0
"""Operations that making numbers of a 4-bit weight costs as much time as."""
_NORMING = 100.0
"""The same, of adding the update to a weight and taking the norm of the sum."""
_LAYER_SECONDS = 0.1e-3
"""For each linear layer and pass, however little it works on."""
_LOADING_SECONDS = 15.0
_LOADED_BYTES_PER_SECOND = 200e6


class Effort(StrEnum):
    """What time goes into; the names are those of the contract."""

    LOADING = "LOADING"
    DECODING = "DECODING"
    VISION = "VISION"
    LANGUAGE = "LANGUAGE"


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a whole job."""

    efforts: tuple[tuple[Effort, float], ...]
    steps: int
    step_seconds: float
    """In the first pass over the data: later ones may find the vision encoder's outputs kept."""
    first_pass: float = 1.0
    """Of all steps, those whose clips must be decoded and encoded: a share."""

    @property
    def total(self) -> float:
        """Decoding goes on beside the rest and counts where it takes longer."""
        seconds = dict(self.efforts)
        computing = seconds[Effort.VISION] + seconds[Effort.LANGUAGE] * self.first_pass
        later = seconds[Effort.LANGUAGE] * (1 - self.first_pass)
        return seconds[Effort.LOADING] + max(computing, seconds[Effort.DECODING]) + later

    @property
    def dominant(self) -> Effort:
        return max(self.efforts, key=lambda pair: pair[1])[0]


def total_steps(parameters: TrainingParameters, rows: int) -> int:
    """Returns the optimizer steps of a job."""
    wanted = parameters.optimization
    return wanted.max_steps or _steps_per_epoch(parameters, rows) * (wanted.epochs or 1)


def _steps_per_epoch(parameters: TrainingParameters, rows: int) -> int:
    return math.ceil(_batches_per_epoch(parameters, rows) / parameters.optimization.gradient_accumulation_steps)


def _batches_per_epoch(parameters: TrainingParameters, rows: int) -> int:
    return math.ceil(rows / parameters.optimization.batch_size)


def estimate_duration(
    model: ModelShape,
    tokens: TokenCounts | None,
    parameters: TrainingParameters,
    place: Place,
    device_count: int = 1,
) -> Duration | None:
    """Returns how long a job takes, of whose steps each device computes a share while all decode on one machine; None
    where tokens or the device's speed are not known.

    No step reaches over the end of an epoch: it holds what the steps of one hold on average. Several devices of a
    machine's processor share it, and gain nothing.
    """
    if tokens is None or place.matmul_flops <= 0:
        return None
    steps = total_steps(parameters, tokens.rows)
    per_epoch = _steps_per_epoch(parameters, tokens.rows)
    samples, batches = tokens.rows / per_epoch, _batches_per_epoch(parameters, tokens.rows) / per_epoch
    row = tokens.mean
    own = samples if device_count == 1 or place.is_processor else math.ceil(samples / device_count)
    seconds = functools.partial(_part_seconds, model, parameters=parameters, place=place, batches=batches)
    vision = seconds(ModuleGroup.VISION, row.patches * own) + seconds(ModuleGroup.PROJECTOR, row.visual * own)
    language = seconds(ModuleGroup.LANGUAGE, row.total * own, row=row.total)
    # Forward and backward, where a learned token follows.
    language += 4.0 * model.head.parameters * row.answer * own / (place.matmul_flops * _EFFICIENCY)
    decoding = samples * row.decoded_pixels / place.decode_pixels if place.decode_pixels > 0 else 0.0
    weights = sum(part.parameters for part in (model.vision, model.projector, model.language, model.head)) * 2
    first_pass = 1.0
    if keeps_encoder_outputs(parameters):
        first_pass = min(1.0, per_epoch / steps)
    efforts = (
        (Effort.LOADING, _LOADING_SECONDS + weights / _LOADED_BYTES_PER_SECOND),
        (Effort.DECODING, steps * decoding * first_pass),
        (Effort.VISION, steps * vision * first_pass),
        (Effort.LANGUAGE, steps * language),
    )
    return Duration(efforts, steps, max(vision + language, decoding), first_pass)


def keeps_encoder_outputs(parameters: TrainingParameters) -> bool:
    """Whether the trainer keeps what the vision encoder makes of a clip, and needs the clip but once: where nothing
    before the language model is trained, and later passes see the same frames."""
    return (
        parameters.speed.encoder_cache is EncoderCache.AUTO
        and parameters.sampling.placement is FramePlacement.EVEN
        and set(parameters.lora.target_groups) == {ModuleGroup.LANGUAGE}
    )


def _part_seconds(
    model: ModelShape,
    group: ModuleGroup,
    length: float,
    *,
    parameters: TrainingParameters,
    place: Place,
    batches: float,
    row: int = 0,
) -> float:
    """Seconds of one step in a part of the model, for `length` tokens, in `batches`, of rows of `row` tokens, each of
    which attends to all others; 0 where that is not known."""
    part, order = part_of(model, group), (ModuleGroup.VISION, ModuleGroup.PROJECTOR, ModuleGroup.LANGUAGE)
    lora, optimization = parameters.lora, parameters.optimization
    passes = 1
    if any(each in lora.target_groups for each in order[: order.index(group) + 1]):
        passes = 3 if optimization.gradient_checkpointing else 2
    repeats = 2 if lora.repeats_base and group in lora.target_groups else 1
    operations = length * (2.0 * repeats * part.linear_parameters + 4.0 * row * part.width * part.layers)
    if is_quantized(group, parameters.quantization):
        operations += batches * _UNPACKING * part.linear_parameters
    if group in lora.target_groups:
        adapter = adapter_parameters(model, replace(lora, target_groups=(group,)))
        # Its own gradients come on top.
        operations += 2.0 * adapter * length * (passes + 1) / passes
        if lora.use_dora:
            operations += batches * (2.0 * lora.highest_rank + _NORMING) * part.linear_parameters
    overhead = part.linear_layers * _LAYER_SECONDS * batches
    return passes * (operations / (place.matmul_flops * _EFFICIENCY) + overhead)
