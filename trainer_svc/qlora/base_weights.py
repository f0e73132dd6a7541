"""A base model's weights as its files have them, before quantisation."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from trainer_svc.qlora.errors import ModelRefusedError

_LARGEST_ERROR = 0.25
"""Of a weight held in 4 bits against itself, relative; NF4 loses about 0.1, another weight more than 1."""


class BaseWeights:
    """The safetensors of a model folder. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for file in sorted(self._folder.glob("*.safetensors")):
            opened = self._stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            self._files |= dict.fromkeys(opened.keys(), opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def of_layer(self, name: str, held: torch.Tensor) -> torch.Tensor:
        """The weight of the layer `name`, fp32 and where `held`, its dequantised copy, is.

        Files may name a layer otherwise than the model does: of all that end alike, the one that was quantised to
        `held` counts. Raises `ModelRefusedError` when there is none.
        """
        for key in self._candidates(f"{name}.weight"):
            weight = self._files[key].get_tensor(key)
            if weight.shape != held.shape:
                continue
            weight = weight.to(held.device, torch.float32)
            if float((weight - held).norm()) <= _LARGEST_ERROR * float(weight.norm()):
                return torch.as_tensor(weight)
        raise ModelRefusedError(
            f"the files of the model hold no weight that {name} was quantised from",
            "use lora.initialization=default or eva",
        )

    def _candidates(self, name: str) -> list[str]:
        """Keys that may mean `name`, those that agree with it longest first."""
        if name in self._files:
            return [name]
        wanted = name.split(".")[::-1]

        def agreement(key: str) -> int:
            parts = key.split(".")[::-1]
            pairs = enumerate(zip(parts, wanted, strict=False))
            return next((number for number, (one, other) in pairs if one != other), len(parts))

        alike = [key for key in self._files if agreement(key) >= 2]
        return sorted(alike, key=lambda key: (-agreement(key), key))
