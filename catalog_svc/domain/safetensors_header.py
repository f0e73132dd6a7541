"""The header of a safetensors file, read within bounds and without the weights.

The format: eight bytes, little-endian, give the length of a JSON object; it maps tensor names to dtype, shape and the
range of their bytes in what follows. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 25 * 1024 * 1024
MAX_TENSORS = 500_000
_MAX_DIMENSIONS = 16
_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class BadSafetensors(ValueError):
    """The file is no sound safetensors file; the text says where it is not."""


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a header says."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name of the tensor."""
    weight_bytes: int

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def header_length(first_bytes: bytes, file_size: int) -> int:
    """Returns the length of the JSON header, in bytes, from the file's first eight; raises BadSafetensors."""
    if len(first_bytes) < LENGTH_BYTES:
        raise BadSafetensors(f"the file has {file_size} bytes: not even a header")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise BadSafetensors(
            f"its header claims {length} bytes, at most {MAX_HEADER_BYTES} are read: it is no safetensors file"
        )
    if length + LENGTH_BYTES > file_size:
        raise BadSafetensors(f"its header claims {length} bytes, the whole file has {file_size}: its end is missing")
    return length


def parse_header(header: bytes, file_size: int) -> SafetensorsHeader:
    """Returns what the JSON header says, once it fits the file exactly; raises BadSafetensors."""
    tensors = _tensors(header)
    payload = file_size - LENGTH_BYTES - len(header)
    shapes: dict[str, tuple[int, ...]] = {}
    ranges: list[tuple[int, int]] = []
    for name, tensor in tensors.items():
        shapes[name], start, end = _tensor(name, tensor)
        ranges.append((start, end))
    _check_ranges(sorted(ranges), payload)
    return SafetensorsHeader(shapes, payload)


def _tensors(header: bytes) -> dict[str, Any]:
    try:
        value = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadSafetensors(f"its header is not JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise BadSafetensors("its header is not a JSON object")
    value.pop("__metadata__", None)
    if not 0 < len(value) <= MAX_TENSORS:
        raise BadSafetensors(f"its header names {len(value)} tensors")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name comes twice")
    return value


def _tensor(name: str, tensor: Any) -> tuple[tuple[int, ...], int, int]:
    """Returns the shape and the range of bytes of one tensor."""
    shown = name[:80]
    if not isinstance(tensor, dict):
        raise BadSafetensors(f"tensor {shown} is not described by an object")
    shape: Any = tensor.get("shape")
    offsets: Any = tensor.get("data_offsets")
    bits = _BITS.get(str(tensor.get("dtype")))
    if bits is None:
        raise BadSafetensors(f"tensor {shown} has the unknown dtype {str(tensor.get('dtype'))[:20]}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise BadSafetensors(f"tensor {shown} has no sound shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise BadSafetensors(f"tensor {shown} has no sound data_offsets")
    elements = math.prod(shape)
    if -(-elements * bits // 8) != offsets[1] - offsets[0]:
        raise BadSafetensors(
            f"tensor {shown} has {offsets[1] - offsets[0]} bytes, its shape and dtype need another number"
        )
    return tuple(shape), offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 62 for size in value)


def _check_ranges(ranges: list[tuple[int, int]], payload: int) -> None:
    """The tensors must cover what follows the header without hole or overlap, as the format demands."""
    position = 0
    for start, end in ranges:
        if start != position:
            raise BadSafetensors(f"its tensors leave a hole or overlap at byte {min(start, position)}")
        position = end
    if position != payload:
        raise BadSafetensors(
            f"its tensors need {position} bytes, the file holds {payload}: it is cut or has something appended"
        )
