"""The parts of a video-text model and the memory that they take, from the names and shapes of its tensors alone. Pure.

Checkpoints name parts in the style of their time (`visual.blocks…`, `model.visual.blocks…`), so that parts are told
by any component of a tensor's name.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]

# A projector's name wins: in some models it stands inside the vision tower.
_PROJECTORS = frozenset(
    ["merger", "deepstack_merger_list", "multi_modal_projector", "projector", "connector", "mm_projector", "aligner"]
)
_TOWERS = frozenset(["visual", "vision_tower", "vision_model", "vision_encoder"])
_HEAD = "lm_head"
_EMBEDDINGS = ("embed", "wte", "wpe")

_WIDEST = (1 << 31) - 1
"""Columns and rows of a matrix, as the contract counts widths."""
_BYTES_16BIT = 2.0
# NF4 with double quantisation: four bits a weight, an 8-bit constant for 64 weights, and a 32-bit constant for 256 of
# those (QLoRA, arXiv:2305.14314, section 3).
BYTES_4BIT = 4 / 8 + 1 / 64 + 4 / (64 * 256)


class PartKind(enum.StrEnum):
    """A part of a model; LANGUAGE is the language model and whatever belongs to no other part."""

    VISION = "VISION"
    PROJECTOR = "PROJECTOR"
    LANGUAGE = "LANGUAGE"
    HEAD = "HEAD"


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One part."""

    kind: PartKind
    parameter_count: int
    linear_layers: int
    """Layers that an adapter can be trained for."""
    linear_parameters: int
    """Their weights, without biases."""
    lora_modules: tuple[str, ...]
    """The last names of those layers, sorted: `q_proj`."""
    linear_inputs: int = 0
    """Widths of their inputs, added up; with the widths of their outputs, what an adapter of rank 1 has parameters."""
    linear_outputs: int = 0
    largest_linear: int = 0
    """Weights of the largest of them."""
    layer_count: int = 0
    """Blocks that follow one another."""
    width: int = 0
    """Numbers that a token has between two blocks."""


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What the frozen weights take on a device, in bytes. Activations, gradients and the adapter come on top."""

    bytes_4bit: int = 0
    """As a job has it by default: the language model's linear layers in NF4 with double quantisation, else 16 bits."""
    bytes_16bit: int = 0


def model_parts(tensors: Iterable[tuple[str, Shape]]) -> tuple[ModelPart, ...]:
    """Returns the parts that there are, from the names and shapes of all tensors."""
    by_kind: dict[PartKind, list[tuple[str, Shape]]] = {}
    for name, shape in tensors:
        by_kind.setdefault(_kind_of(name), []).append((name, shape))
    return tuple(_part(kind, by_kind[kind]) for kind in PartKind if kind in by_kind)


def model_memory(parts: Sequence[ModelPart]) -> ModelMemory:
    """Returns what the weights take: 4.127 bits for each weight that is quantised, 16 for each that is not."""
    total = sum(part.parameter_count for part in parts)
    quantised = sum(part.linear_parameters for part in parts if part.kind is PartKind.LANGUAGE)
    return ModelMemory(
        math.ceil(quantised * BYTES_4BIT + (total - quantised) * _BYTES_16BIT), math.ceil(total * _BYTES_16BIT)
    )


def vocabulary_size(tensors: Iterable[tuple[str, Shape]]) -> int:
    """Returns the rows of the language model's table of embeddings; 0 where none is found."""
    tables = [shape[0] for name, shape in tensors if _is_token_table(name, shape)]
    return max(tables, default=0)


def _is_token_table(name: str, shape: Shape) -> bool:
    return _is_matrix(shape) and _kind_of(name) is PartKind.LANGUAGE and _layer(name) in ("embed_tokens", "wte")


def _kind_of(name: str) -> PartKind:
    components = frozenset(name.split("."))
    if components & _PROJECTORS:
        return PartKind.PROJECTOR
    if components & _TOWERS:
        return PartKind.VISION
    return PartKind.HEAD if _HEAD in components else PartKind.LANGUAGE


def _part(kind: PartKind, tensors: Sequence[tuple[str, Shape]]) -> ModelPart:
    linears: Mapping[str, Shape] = {name: shape for name, shape in tensors if _is_linear(kind, name, shape)}
    sizes = [math.prod(shape) for shape in linears.values()]
    inputs = [shape[1] for shape in linears.values()]
    return ModelPart(
        kind=kind,
        parameter_count=sum(math.prod(shape) for _, shape in tensors),
        linear_layers=len(linears),
        linear_parameters=sum(sizes),
        lora_modules=tuple(sorted({_layer(name) for name in linears})),
        linear_inputs=sum(inputs),
        linear_outputs=sum(shape[0] for shape in linears.values()),
        largest_linear=max(sizes, default=0),
        layer_count=len({number for name in linears for number in [_block(name)] if number}),
        # Most layers of a block read what goes from block to block.
        width=Counter(inputs).most_common(1)[0][0] if inputs else 0,
    )


def _is_linear(kind: PartKind, name: str, shape: Shape) -> bool:
    """Linear layers have matrices for weights; tables of embeddings have, too. The head is never adapted."""
    if kind is PartKind.HEAD or not _is_matrix(shape) or not name.endswith(".weight"):
        return False
    return not any(word in _layer(name) for word in _EMBEDDINGS)


def _is_matrix(shape: Shape) -> bool:
    """A matrix without rows or columns weighs nothing, so that no file is too small for any other number of them."""
    return len(shape) == 2 and all(0 < side <= _WIDEST for side in shape)


def _block(name: str) -> str:
    """The number of the block that a tensor is in, as its name has it; empty outside of blocks."""
    return next((component for component in name.split(".") if component.isdecimal()), "")


def _layer(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
