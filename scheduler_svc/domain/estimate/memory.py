"""What a training run keeps in memory, by part.

Weights, adapter and optimizer are counted; activations follow a formula by the widths of the layers, fitted to what
autograd was seen to keep (see `benchmarks/estimate_error.py`, which measures whole runs against it):

- With checkpointing each block keeps its input alone, and one block at a time is computed again in full.
- A block in full keeps, a token: its outputs and what lies between them, 1.25 times their widths; two normalised states
  in 32 bits; and, where it has an adapter, that adapter's inputs in 32 bits, as they are or with dropout.
- Where nothing below is trained, nothing is kept: one block's outputs come and go.
- On CPUs the C library's heap keeps what is freed between the inputs that stay, so that with checkpointing the language
  model's part grows as without.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, replace
from enum import StrEnum

from scheduler_svc.domain.adapter_parameters import LoraParameters, ModuleGroup
from scheduler_svc.domain.base_sharing import want_whole_layers
from scheduler_svc.domain.estimate.facts import ModelShape, Part
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import RowTokens, TokenCounts
from scheduler_svc.domain.job import DeviceClass
from scheduler_svc.domain.parameters import (
    BaseSharing,
    ComputeType,
    Optimizer,
    QuantizationParameters,
    QuantizationType,
    TrainingParameters,
)

_MIB = 1 << 20
_BYTES_4BIT = 4 / 8 + 4 / 64
"""NF4: four bits a weight and a 32-bit constant for 64 of them (QLoRA, arXiv:2305.14314, section 3)."""
_BYTES_4BIT_DOUBLE = 4 / 8 + 1 / 64 + 4 / (64 * 256)
_WORD = {ComputeType.FP32: 4, ComputeType.BF16: 2, ComputeType.FP16: 2}
_OPTIMIZER_BYTES = {"ADAMW": 8.0, "PAGED_ADAMW": 8.0, "LION_8BIT": 1.1}
"""State for each trained number; others keep about 8 bits of each of at most two moments."""
_SMALL_OPTIMIZER_BYTES = 2.2
_BETWEEN = 1.25
_RUNTIME_BYTES = {DeviceClass.CPU: 550 * _MIB, DeviceClass.CUDA: 600 * _MIB, DeviceClass.JETSON: 1600 * _MIB}
"""Interpreter, libraries and, on GPUs, the context. Measured on the CPU, assumed elsewhere."""
DECODING_BYTES = (150 + 256) * _MIB
"""Of the process that decodes, and of the frames that are kept from one epoch to the next."""
_BATCHES_AHEAD = 4
"""Encoded batches that wait, are being made, or are in use."""
_PAGED = frozenset({Optimizer.PAGED_ADAMW, Optimizer.PAGED_ADAMW_8BIT})
"""Their state gives way to the machine's memory."""
_FOUR_BIT_SHARE, _BASE_SHARE = 0.3, 0.6
"""Of the bytes of 16-bit weights what the trainer takes 4 bits to leave, and of a device's memory what it lets a base
have without sharing it out."""
_DORA_COPIES, _NORM_WORD = 3, 4
"""What the norm of a layer's weights is taken of, in numbers of 32 bits."""
_UNCERTAIN = 0.15
"""Of everything that is not counted exactly."""


class MemoryPart(StrEnum):
    """What memory is taken by; the names are those of the contract."""

    QUANTIZED_WEIGHTS = "QUANTIZED_WEIGHTS"
    UNQUANTIZED_WEIGHTS = "UNQUANTIZED_WEIGHTS"
    ADAPTER = "ADAPTER"
    GRADIENTS = "GRADIENTS"
    OPTIMIZER = "OPTIMIZER"
    ACTIVATIONS = "ACTIVATIONS"
    LOGITS = "LOGITS"
    FRAMES = "FRAMES"
    RUNTIME = "RUNTIME"


_COUNTED = frozenset(
    {
        *(MemoryPart.QUANTIZED_WEIGHTS, MemoryPart.UNQUANTIZED_WEIGHTS),
        *(MemoryPart.ADAPTER, MemoryPart.GRADIENTS, MemoryPart.OPTIMIZER),
    }
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device, at the highest."""

    parts: tuple[tuple[MemoryPart, int], ...]
    is_complete: bool
    """False: tokens are not known, so that activations, logits and frames are missing."""
    least: int
    """Less it will hardly be: what a device must have for the job not to be refused. Of the rows it counts only what is
    sure to be in one batch, of the weights only a device's share where the base may be shared out."""
    least_parts: tuple[tuple[MemoryPart, int], ...] = ()
    """What `least` is made of."""

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts)

    @property
    def most(self) -> int:
        """More it will hardly be: a device with so much is enough."""
        return self.total + self._uncertain

    def of(self, part: MemoryPart) -> int:
        """Returns what one part takes."""
        return dict(self.parts).get(part, 0)

    @property
    def _uncertain(self) -> int:
        """What nobody has measured everywhere."""
        return round(_UNCERTAIN * sum(size for part, size in self.parts if part not in _COUNTED))


def estimate_memory(
    model: ModelShape, tokens: TokenCounts | None, parameters: TrainingParameters, place: Place, device_count: int = 1
) -> Memory:
    """Returns what a job takes on a device, of `device_count` that work on it together.

    Args:
        tokens: None where they are not known: then only what does not depend on them is counted.
    """
    trained = adapter_parameters(model, parameters.lora)
    low = replace(parameters, lora=parameters.lora.at_lowest_rank)
    surely = adapter_parameters(model, low.lora)
    optimizer = _OPTIMIZER_BYTES.get(str(parameters.optimization.optimizer), _SMALL_OPTIMIZER_BYTES)
    sizes = {
        **_weights(model, parameters, place, device_count if _shares_base(model, parameters, place) else 1),
        MemoryPart.ADAPTER: trained * 4,
        MemoryPart.GRADIENTS: trained * 4,
        MemoryPart.OPTIMIZER: math.ceil(trained * optimizer),
        MemoryPart.RUNTIME: _RUNTIME_BYTES.get(place.device_class, _RUNTIME_BYTES[DeviceClass.CUDA]),
    }
    least = {
        **_weights(model, parameters, place, device_count if _may_share_base(parameters) else 1),
        MemoryPart.ADAPTER: surely * 4,
        MemoryPart.GRADIENTS: surely * 4,
        MemoryPart.OPTIMIZER: 0 if parameters.optimization.optimizer in _PAGED else math.floor(surely * optimizer),
        MemoryPart.RUNTIME: sizes[MemoryPart.RUNTIME],
    }
    if tokens is not None:
        batch = samples_in_pass(parameters, tokens.rows, device_count)
        row, checkpointed = tokens.largest, _checkpointed(parameters)
        in_use = _activations(model, row, batch, parameters, place, checkpointed=checkpointed)
        if place.device_class is DeviceClass.CPU and checkpointed:
            # What is freed between the inputs that stay is not given back: as much as if all of it were kept.
            heap = checkpointed - {ModuleGroup.LANGUAGE}
            in_use = max(in_use, _activations(model, row, batch, parameters, place, checkpointed=heap))
        sizes[MemoryPart.ACTIVATIONS] = (
            in_use + _repeated_weights(model, parameters, place) + _identity(model, parameters)
        )
        sizes[MemoryPart.LOGITS] = _logits(model, row, batch, parameters, place)
        sizes[MemoryPart.FRAMES] = _frames(row, batch, _BATCHES_AHEAD, place)
        sure: list[dict[MemoryPart, int]] = [
            {
                MemoryPart.ACTIVATIONS: _activations(model, one, count, low, place, checkpointed=checkpointed),
                MemoryPart.LOGITS: _logits(model, one, count, parameters, place),
                MemoryPart.FRAMES: _frames(one, count, 1, place),
            }
            for one, count in _sure_batches(tokens, parameters, batch)
        ]
        surest: dict[MemoryPart, int] = max(sure, key=lambda found: sum(found.values()))
        least |= surest
        least[MemoryPart.ACTIVATIONS] += _repeated_weights(model, parameters, place)
    least = {part: size if part in _COUNTED else round((1 - _UNCERTAIN) * size) for part, size in least.items()}
    parts, least_parts = (
        tuple((part, found[part]) for part in MemoryPart if part in found) for found in (sizes, least)
    )
    return Memory(parts, tokens is not None, min(sum(least.values()), sum(sizes.values())), least_parts)


def samples_in_pass(parameters: TrainingParameters, rows: int, device_count: int) -> int:
    """Returns the most samples that a device has in one forward pass: no step holds more than an epoch."""
    wanted = parameters.optimization
    in_step = min(rows, wanted.batch_size * wanted.gradient_accumulation_steps)
    return min(wanted.batch_size, math.ceil(in_step / device_count))


def _sure_batches(tokens: TokenCounts, parameters: TrainingParameters, batch: int) -> list[tuple[RowTokens, float]]:
    """Rows, and how many of them one batch is sure to hold at the least."""
    wanted = parameters.optimization
    seen = wanted.max_steps * wanted.batch_size * wanted.gradient_accumulation_steps
    if wanted.max_steps and seen < tokens.rows:
        return [(tokens.smallest, min(batch, tokens.rows))]
    # One batch has as many tokens as all of them have on average.
    mean = tokens.rows / math.ceil(tokens.rows / batch)
    return [(tokens.longest, 1), (tokens.wordiest, 1), (tokens.common, mean)]


def _weights(model: ModelShape, parameters: TrainingParameters, place: Place, sharing: int) -> dict[MemoryPart, int]:
    """Those that one of `sharing` devices holds: of the language model's layers a share, and one layer as a whole."""
    word = word_bytes(parameters, place)
    quantized = _quantized_parameters(model, parameters)
    others = sum(part.parameters for part in (model.vision, model.projector, model.language, model.head)) - quantized
    if sharing > 1:
        shared = model.language.linear_parameters
        spared = shared - min(shared, math.ceil(shared / sharing + shared / max(1, model.language.layers)))
        if parameters.quantization.type is QuantizationType.NONE:
            others -= spared
        else:
            quantized -= spared
    each = _BYTES_4BIT_DOUBLE if parameters.quantization.double_quantization else _BYTES_4BIT
    return {
        MemoryPart.QUANTIZED_WEIGHTS: math.ceil(quantized * each),
        MemoryPart.UNQUANTIZED_WEIGHTS: others * word,
    }


def _shares_base(model: ModelShape, parameters: TrainingParameters, place: Place) -> bool:
    """As the trainer decides it, were there several devices."""
    if parameters.base_sharing is BaseSharing.ON or not _may_share_base(parameters):
        return parameters.base_sharing is BaseSharing.ON
    if place.device_class is DeviceClass.CPU or not place.memory_bytes:
        return False
    stored = 2 * sum(part.parameters for part in (model.vision, model.projector, model.language, model.head))
    left = 1.0 if parameters.quantization.type is QuantizationType.NONE else _FOUR_BIT_SHARE
    return stored * left > _BASE_SHARE * place.memory_bytes


def _may_share_base(parameters: TrainingParameters) -> bool:
    if parameters.base_sharing is BaseSharing.AUTO:
        return not want_whole_layers(parameters)
    return parameters.base_sharing is BaseSharing.ON


def word_bytes(parameters: TrainingParameters, place: Place) -> int:
    """Returns the bytes of a number that is computed with: by default 4 on CPUs and 2 on GPUs."""
    default = 4 if place.is_emulated or place.device_class is DeviceClass.CPU else 2
    return _WORD.get(parameters.quantization.compute_type, default)


def adapter_parameters(model: ModelShape, lora: LoraParameters) -> int:
    """Returns how many numbers are trained, at the highest rank that the job has."""
    rank = lora.highest_rank
    count = 0
    for group in lora.target_groups:
        part = part_of(model, group)
        count += rank * (part.linear_inputs + part.linear_outputs)
        if lora.use_dora:
            # A magnitude for each row of a layer's weights (DoRA, arXiv:2402.09353, section 4.1).
            count += part.linear_outputs
        if group in lora.temporal_groups:
            count += rank * lora.temporal_kernel_size * part.linear_layers
    return count


def part_of(model: ModelShape, group: ModuleGroup) -> Part:
    """Returns the part of a model that a target group names."""
    return {
        ModuleGroup.VISION: model.vision,
        ModuleGroup.PROJECTOR: model.projector,
        ModuleGroup.LANGUAGE: model.language,
    }[group]


def is_quantized(group: ModuleGroup, quantization: QuantizationParameters) -> bool:
    """Whether a part's layers are in 4 bits."""
    if quantization.type is QuantizationType.NONE or group is ModuleGroup.PROJECTOR:
        return False
    return group is ModuleGroup.LANGUAGE or quantization.quantize_vision


def _quantized_parameters(model: ModelShape, parameters: TrainingParameters) -> int:
    groups = (group for group in ModuleGroup if is_quantized(group, parameters.quantization))
    return sum(part_of(model, group).linear_parameters for group in groups)


def _checkpointed(parameters: TrainingParameters) -> frozenset[ModuleGroup]:
    return frozenset(ModuleGroup) if parameters.optimization.gradient_checkpointing else frozenset()


def _activations(
    model: ModelShape,
    row: RowTokens,
    batch: float,
    parameters: TrainingParameters,
    place: Place,
    *,
    checkpointed: Set[ModuleGroup],
) -> int:
    word, targets = word_bytes(parameters, place), parameters.lora.target_groups
    lengths = (
        (ModuleGroup.VISION, batch * row.patches),
        (ModuleGroup.PROJECTOR, batch * row.visual),
        (ModuleGroup.LANGUAGE, batch * row.total),
    )
    kept, busiest = 0.0, 0.0
    has_trained_below = False
    for group, length in lengths:
        part = part_of(model, group)
        has_trained_below = has_trained_below or group in targets
        block = _block_bytes(part, parameters, word, place, has_adapter=group in targets) * length
        if not has_trained_below:
            # What a block has in hand, in and out, until the next one is through.
            busiest = max(busiest, word * _block_width(part) * length + part.width * word * length)
        elif group in checkpointed and part.layers > 1:
            kept += part.layers * part.width * word * length
            busiest = max(busiest, 1.5 * block)
        else:
            kept += max(1, part.layers) * block
            busiest = max(busiest, 0.5 * block)
    # The causal mask of the longest row, and the weights of one layer as they are computed with.
    mask = batch * row.total**2 * 4
    in_hand = 2 * word * model.language.largest_linear
    if parameters.lora.use_dora:
        # Its norm is taken of the weights, the update and their sum, in 32 bits.
        in_hand += _DORA_COPIES * _NORM_WORD * max(part_of(model, group).largest_linear for group in targets)
    return math.ceil(kept + busiest + mask + in_hand)


def _repeated_weights(model: ModelShape, parameters: TrainingParameters, place: Place) -> int:
    """Weights in the form they are computed with that wait for the backward pass, of all blocks or of the one that is
    computed again; none of layers that are in 32 bits anyhow, which nobody copies."""
    if not parameters.lora.repeats_base:
        return 0
    word = word_bytes(parameters, place)
    targets = parameters.lora.target_groups
    copied = [group for group in targets if word != _NORM_WORD or is_quantized(group, parameters.quantization)]
    parts = [part_of(model, group) for group in copied]
    at_once = [max(1, part.layers) if parameters.optimization.gradient_checkpointing else 1 for part in parts]
    kept = [part.linear_parameters / blocks for part, blocks in zip(parts, at_once, strict=True)]
    total = max(kept, default=0.0) if parameters.optimization.gradient_checkpointing else sum(kept)
    return math.ceil(total * word)


def _identity(model: ModelShape, parameters: TrainingParameters) -> int:
    """The square matrix of ones on the diagonal that peft's DoRA sends through an adapter to get its update: as wide as
    the layer's inputs, one layer at a time. What is widest is not told: the largest layer is taken to lead from or to
    what a token has between two blocks."""
    if not parameters.lora.use_dora:
        return 0
    parts = [part_of(model, group) for group in parameters.lora.target_groups]
    widest = max(max(part.width, part.largest_linear // max(1, part.width)) for part in parts)
    return _NORM_WORD * widest**2


def _block_width(part: Part) -> float:
    return _BETWEEN * part.linear_outputs / max(1, part.layers)


def _block_bytes(part: Part, parameters: TrainingParameters, word: int, place: Place, *, has_adapter: bool) -> float:
    """What one block keeps of one token."""
    size = word * _block_width(part) + 8 * part.width
    if has_adapter:
        inputs = part.linear_inputs / max(1, part.layers)
        size += 4 * parameters.lora.highest_rank * part.linear_layers / max(1, part.layers)
        if parameters.lora.use_dora:
            # The product is kept once more, for the magnitude that scales it is trained.
            size += word * part.linear_outputs / max(1, part.layers)
        if parameters.lora.dropout > 0:
            # What is left of them and what has dropped them: a byte each on GPUs, a number each on CPUs.
            size += inputs * (4 + (4 if place.is_emulated or place.device_class is DeviceClass.CPU else 1))
        else:
            # In 32 bits layers that read the same share it.
            size += inputs * 4 * (0.67 if word == 4 else 1.0)
    return size


def _logits(model: ModelShape, row: RowTokens, batch: float, parameters: TrainingParameters, place: Place) -> int:
    """Only where a learned token follows: but there for every row of the batch."""
    positions = min(row.total, row.answer) * batch
    return math.ceil(positions * model.vocabulary * (2 * word_bytes(parameters, place) + 8))


def _frames(row: RowTokens, batch: float, ahead: int, place: Place) -> int:
    size = math.ceil(batch * row.pixel_bytes)
    return ahead * size + DECODING_BYTES if place.shares_memory else size
