"""Dropout that a CPU draws four at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LOTS = 1 << 16
"""Each element draws one of so many lots; the probability is rounded to whole ones."""


class PackedDropout(nn.Dropout):
    """`torch.nn.Dropout` whose mask on a CPU comes from 16 random bits an element instead of 64.

    torch's generator for CPUs makes one number after the other in one thread, and its own dropout asks for a double for
    each element, at every linear layer that has an adapter. The probability p is rounded to a 65,536th, and what is
    kept is scaled by the rounded one, so that the expectation is x. Masks come from torch's default generator, as its
    own do: they follow `torch.manual_seed` and are drawn alike again by checkpointing. On other devices it is torch's
    own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, on its device and of its type."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = round(self.p * _LOTS)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        lots = draws.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.ge(lots, dropped - _LOTS // 2, out=torch.empty_like(x, requires_grad=False))
        return x * mask.mul_(_LOTS / (_LOTS - dropped))


def draw_packed(model: nn.Module) -> None:
    """Puts it in place of the adapters' dropout."""
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, nn.ModuleDict):
            for name, layer in layers.items():
                if isinstance(layer, nn.Dropout):
                    layers[name] = PackedDropout(layer.p)
