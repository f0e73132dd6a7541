"""How long a job takes, and what most of that goes into.

Counted in operations: a token costs a part's forward pass two for each weight. A frozen part that nothing trained lies
below runs forward only; all others once more for the gradients of what goes into them (their frozen weights need none)
and, with checkpointing, once more again. Speeds are those that the trainer's probe has measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from scheduler_svc.domain.adapter_parameters import ModuleGroup
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape
from scheduler_svc.domain.estimate.memory import part_of
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import TokenCounts
from scheduler_svc.domain.parameters import TrainingParameters

_EFFICIENCY = 0.5
"""Share of a large matrix product's speed that training reaches."""
_LAYER_SECONDS = 0.4e-3
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

    @property
    def total(self) -> float:
        """Decoding goes on beside the rest and counts where it takes longer."""
        seconds = dict(self.efforts)
        computing = seconds[Effort.VISION] + seconds[Effort.LANGUAGE]
        return seconds[Effort.LOADING] + max(computing, seconds[Effort.DECODING])

    @property
    def dominant(self) -> Effort:
        return max(self.efforts, key=lambda pair: pair[1])[0]


def total_steps(parameters: TrainingParameters, rows: int) -> int:
    """Returns the optimizer steps of a job."""
    wanted = parameters.optimization
    if wanted.max_steps:
        return wanted.max_steps
    batches = math.ceil(rows / wanted.batch_size)
    return math.ceil(batches / wanted.gradient_accumulation_steps) * (wanted.epochs or 1)


def estimate_duration(
    model: ModelShape,
    dataset: DatasetShape,
    tokens: TokenCounts | None,
    parameters: TrainingParameters,
    place: Place,
    device_count: int = 1,
) -> Duration | None:
    """Returns how long a job takes, of whose steps each device computes a share while all decode on one machine; None
    where tokens or the device's speed are not known."""
    if tokens is None or place.matmul_flops <= 0:
        return None
    wanted = parameters.optimization
    steps = total_steps(parameters, dataset.rows)
    samples = wanted.batch_size * wanted.gradient_accumulation_steps
    row = tokens.mean
    own = math.ceil(samples / device_count)
    vision = _part_seconds(model, ModuleGroup.VISION, row.patches * own, parameters, place)
    vision += _part_seconds(model, ModuleGroup.PROJECTOR, row.visual * own, parameters, place)
    language = _part_seconds(model, ModuleGroup.LANGUAGE, row.total * own, parameters, place)
    decoding = samples * row.decoded_pixels / place.decode_pixels if place.decode_pixels > 0 else 0.0
    weights = sum(part.parameters for part in (model.vision, model.projector, model.language, model.head)) * 2
    efforts = (
        (Effort.LOADING, _LOADING_SECONDS + weights / _LOADED_BYTES_PER_SECOND),
        (Effort.DECODING, steps * decoding),
        (Effort.VISION, steps * vision),
        (Effort.LANGUAGE, steps * language),
    )
    return Duration(efforts, steps, max(vision + language, decoding))


def _part_seconds(
    model: ModelShape, group: ModuleGroup, length: int, parameters: TrainingParameters, place: Place
) -> float:
    """Seconds of one step in a part of the model."""
    part, order = part_of(model, group), (ModuleGroup.VISION, ModuleGroup.PROJECTOR, ModuleGroup.LANGUAGE)
    below = order[: order.index(group) + 1]
    passes = 1
    if any(each in parameters.lora.target_groups for each in below):
        passes = 3 if parameters.optimization.gradient_checkpointing else 2
    operations = 2.0 * part.linear_parameters * length
    overhead = part.linear_layers * _LAYER_SECONDS * parameters.optimization.gradient_accumulation_steps
    return passes * (operations / (place.matmul_flops * _EFFICIENCY) + overhead)
