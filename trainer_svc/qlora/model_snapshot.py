"""A model as it was loaded, to be had back after a training has put adapters, hooks and flags into it.

Training changes a model in place: peft replaces layers, checkpointing and frame indices leave hooks, freezing changes
flags. Instead of undoing each by its own name, which would miss the next one, every module's attributes are put back as
they were; and since weights are the one thing that nobody may change, their bytes are summed before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_CONTAINERS = (dict, list, set)


class ModelSnapshot:
    """Take it right after loading."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._objects = [(each, type(each), _copied(each.__dict__)) for each in _objects(model)]
        self._frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._digest = _digest(model)

    def restore(self) -> bool:
        """Puts everything back but the weights; tells whether these are what they were. Repeating it does no harm."""
        for each, kind, attributes in self._objects:
            each.__class__ = kind
            each.__dict__.clear()
            each.__dict__.update(_copied(attributes))
        for parameter, requires_grad in self._frozen:
            parameter.grad = None
            parameter.requires_grad_(requires_grad)
        return _digest(self._model) == self._digest


def _objects(model: nn.Module) -> list[Any]:
    """The modules and their configurations, each once."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [*model.modules()]
    while waiting:
        each = waiting.pop()
        if id(each) in found:
            continue
        found[id(each)] = each
        waiting += [value for value in each.__dict__.values() if hasattr(value, "to_diff_dict")]
    return list(found.values())


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes whose containers are not those of the object: a hook that is added does not show in it."""
    return {name: value.copy() if isinstance(value, _CONTAINERS) else value for name, value in attributes.items()}


def _digest(model: nn.Module) -> list[tuple[str, int, int]]:
    """Name, bytes and sum of every tensor; what a change of any of them leaves the same is no accident."""
    return [(name, tensor.nbytes, _sum(tensor)) for name, tensor in _tensors(model)]


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield f"{name}.absmax", state.absmax
            if state.state2 is not None:
                yield f"{name}.absmax2", state.state2.absmax
    yield from model.named_buffers()


def _sum(tensor: torch.Tensor) -> int:
    """Of its bytes, eight at a time where they divide so; wraps around."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    words = flat[:whole].view(torch.int64).sum() if whole else torch.zeros((), dtype=torch.int64)
    return int(words) + int(flat[whole:].sum())
