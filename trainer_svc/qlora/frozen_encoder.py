"""Everything before the language model, run apart from it where nothing in it is trained.

The outputs are then constants of a sample's clips. They are computed one sample at a time, never a batch at once: what
a matrix product gives for a row depends in its last bits on how many rows there are, and a sample must be encoded alike
in whatever batch it comes, or a run that reads outputs from a cache would not be the run that computes them.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from trainer_svc.qlora.families import EncoderCall
from trainer_svc.qlora.model_loader import BaseModel

Features = dict[str, Tensor]
"""Outputs for one sample's clips: `pooled` (N, d), and `deepstack.I` (N, d) for families that feed deeper layers."""

_POOLED = "pooled"
_DEEP = "deepstack."
_MODEL_ARGUMENT = "mm_encoder_outputs"
_VALUES_A_THREAD = 1 << 15
"""torch's own GRAIN_SIZE: a loop over fewer elements it does not share out at all."""


@dataclass
class EncoderOutputs(ModelOutput):  # type: ignore[misc]  # transformers is untyped
    """What the model reads of its encoder's outputs."""

    pooler_output: Any = None
    deepstack_features: Any = None


class FrozenEncoder:
    """The vision tower and the projector of a model in which neither is trained."""

    def __init__(self, base: BaseModel) -> None:
        """Raises `ValueError` where `why_not_frozen` has something to say."""
        if base.family.encoder is None:
            raise ValueError(f"the encoder of a {base.family.name} cannot be run apart")
        self._call: EncoderCall = base.family.encoder
        self._model = base.model.model
        self._device = base.device
        self._parts = [base.model.get_submodule(name) for name in (*base.family.vision, *base.family.projector)]
        self.pixel_names = self._call.pixels

    def encode(self, inputs: Mapping[str, Any]) -> Features:
        """The outputs for one sample, on the model's device. Leaves no graph and no trace in the random generators.

        Args:
            inputs: What the processor made of the sample, pixels included.
        """
        for part in self._parts:
            # As in inference: a frozen tower's dropout would only be noise.
            if part.training:
                part.eval()
        names = (*self._call.pixels, *self._call.shapes)
        arguments = {name: inputs[name].to(self._device) for name in names if name in inputs}
        with torch.no_grad(), self._fitting_threads(arguments):
            outputs = getattr(self._model, self._call.method)(**arguments, return_dict=True)
        features = {_POOLED: _flat(outputs.pooler_output)}
        for index, deep in enumerate(getattr(outputs, "deepstack_features", None) or ()):
            features[f"{_DEEP}{index}"] = _flat(deep)
        return features

    @contextmanager
    def _fitting_threads(self, arguments: Mapping[str, Tensor]) -> Iterator[None]:
        """On a CPU a small clip gets few threads: more would gain little, and wait for the cores on which the next
        batches are made. As many for the same clip, always: its outputs' last bits hang on it.
        """
        threads = torch.get_num_threads()
        values = sum(arguments[name].numel() for name in self._call.pixels if name in arguments)
        fitting = min(threads, max(1, values // _VALUES_A_THREAD))
        if self._device.type != "cpu" or fitting == threads:
            yield
            return
        torch.set_num_threads(fitting)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def model_inputs(self, samples: Sequence[Features]) -> dict[str, Any]:
        """What the model takes instead of pixels, for a batch of samples in order."""
        pooled = [features[_POOLED].to(self._device) for features in samples]
        depth = sum(name.startswith(_DEEP) for name in samples[0])
        deep = [[features[f"{_DEEP}{index}"].to(self._device) for features in samples] for index in range(depth)]
        # The model joins a list, and flattens a tensor of clips or frames: it looks at rows in order alone.
        outputs = EncoderOutputs(pooled if self._call.is_listed else torch.cat(pooled).unsqueeze(0), deep or None)
        return {_MODEL_ARGUMENT: {self._call.modality: outputs}}

    def digest(self) -> str:
        """sha256 over every weight of these parts, as they are in memory: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for number, part in enumerate(self._parts):
            for name, value in part.state_dict(keep_vars=True).items():
                if isinstance(value, Tensor):
                    digest.update(f"{number} {name} {value.dtype} {tuple(value.shape)}\n".encode())
                    digest.update(_bytes(value))
        return digest.hexdigest()


def why_not_frozen(base: BaseModel) -> str | None:
    """Why this model's encoder cannot be run apart from it; None when it can.

    Decided by what is: no weight outside the language model and the head may want a gradient.
    """
    if base.family.encoder is None:
        return f"of models of type {base.family.name} it is not known how to run the vision encoder by itself"
    if _MODEL_ARGUMENT not in inspect.signature(type(base.model).forward).parameters:
        return f"this version of transformers takes no {_MODEL_ARGUMENT} for {base.family.name}"
    for name, parameter in base.model.named_parameters():
        if parameter.requires_grad and not _is_downstream(base, name):
            return f"{name.partition('.lora_')[0]} is trained, and the language model's input depends on it"
    return None


def _is_downstream(base: BaseModel, name: str) -> bool:
    below = (*base.family.language, base.family.head)
    return base.family.group_of(name) in ("language", None) and any(name.startswith(part + ".") for part in below)


def _flat(outputs: Any) -> Tensor:
    """Rows of (N, d), whether clips came as a list or in one tensor."""
    if isinstance(outputs, Tensor):
        return outputs.reshape(-1, outputs.shape[-1])
    return torch.cat(list(outputs))


def _bytes(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def recompute_language_only(base: BaseModel) -> None:
    """Turns recomputation off in parts of which no weight is trained: they keep no activations anyway, and to recompute
    them would be time for nothing."""
    trained = {name for name, parameter in base.model.named_parameters() if parameter.requires_grad}
    for prefix in (*base.family.vision, *base.family.projector):
        if any(name.startswith(prefix + ".") for name in trained):
            continue
        for module in base.model.get_submodule(prefix).modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False
