"""LoRA that mixes a video's tokens along time, inside the low-rank bottleneck.

A plain LoRA layer computes `y = W x + s B A x` for every token by itself. Here the r numbers `h = A x` of a video token
also take in those of the same place in the frames beside it:

    h'_t = h_t + sum_j w_j * h_(t+j)        y = W x + s B h'

`w` (r x k, a depthwise convolution over time) starts at 0, as B does: before the first step the model is its 4-bit
base, and with `w = 0` the layer is plain LoRA. Towers see past and future frames; language layers, which are causal,
the past. Mixing inside the bottleneck is the idea of TemporalDoRA (arXiv 2603.09696), which attends there, and of
ST-Adapter (arXiv 2206.13559), which convolves in three dimensions.

The extra weights are saved beside A and B and need this module to be read: `adapter_files` names it in the sidecar.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn

from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.frame_index import FrameIndex
from trainer_svc.qlora.spec import LoraSpec, SpecError, TemporalGroup

PLUGIN = "temporal_aware_lora"
VERSION = 1
_GROUPS = "_temporal_groups"
_KERNEL = "_temporal_kernel_size"
_INDEX = "_frame_index"


class TemporalMix(nn.Module):
    """Adds to each frame's bottleneck a weighted sum of its neighbours', channel by channel."""

    def __init__(self, rank: int, kernel_size: int, *, is_causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rank, kernel_size))
        before = kernel_size - 1 if is_causal else kernel_size // 2
        self._padding = (before, kernel_size - 1 - before)

    def forward(self, bottleneck: Tensor, frames: list[Tensor]) -> Tensor:
        """The mixed bottleneck.

        Args:
            bottleneck: (..., r), all tokens of the pass.
            frames: int64 (V, T, P) each: V clips of T frames of P tokens, as indices into the flattened tokens.
        """
        flat = bottleneck.reshape(-1, bottleneck.shape[-1])
        for index in frames:
            clips, times, places = index.shape
            tokens = flat[index.reshape(-1)].view(clips, times, places, -1)
            series = tokens.permute(0, 2, 3, 1).reshape(clips * places, -1, times)
            mixed = nn.functional.conv1d(
                nn.functional.pad(series, self._padding), self.weight.unsqueeze(1), groups=self.weight.shape[0]
            )
            mixed = mixed.view(clips, places, -1, times).permute(0, 3, 1, 2).reshape(-1, flat.shape[-1])
            flat = flat.index_add(0, index.reshape(-1), mixed)
        return flat.view_as(bottleneck)


class TemporalVariant(LoraVariant):  # type: ignore[misc]
    """What peft calls in the place of a plain forward pass. Its tensors are the `lora_temporal` of the layer."""

    def supports_lora_conversion(self) -> bool:
        return False

    @staticmethod
    def init(module: Any, adapter_name: str, config: LoraConfig, **_: Any) -> None:
        mix = TemporalMix(
            module.r[adapter_name], getattr(config, _KERNEL), is_causal=module.temporal_group == "language"
        )
        weight = module.lora_A[adapter_name].weight
        module.lora_temporal[adapter_name] = mix.to(device=weight.device, dtype=weight.dtype)

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        bottleneck = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        frames = module.frame_index.of(module.temporal_group, bottleneck.shape[:-1].numel())
        if frames:
            bottleneck = module.lora_temporal[active_adapter](bottleneck, frames)
        update: Tensor = module.lora_B[active_adapter](bottleneck) * module.scaling[active_adapter]
        return result + update

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        raise NotMergeableError

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        raise NotMergeableError

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        raise NotMergeableError


class NotMergeableError(RuntimeError):
    """Asked to merge what no single weight matrix can do."""

    def __init__(self) -> None:
        super().__init__(
            "a temporal adapter mixes tokens of several frames, which no merged weight can do: keep it as an adapter, "
            "or export it as plain LoRA first"
        )


class _Temporal:
    """What both kinds of layer add: the place in the model, and who is temporal there."""

    adapter_layer_names = (*LoraLayer.adapter_layer_names, "lora_temporal")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **options: Any) -> None:
        index: FrameIndex = getattr(config, _INDEX)
        # peft sets the first adapter up within its own constructor, and a module takes attributes only after that of
        # `nn.Module` has run: these are plain class-level slots until then.
        object.__setattr__(self, "frame_index", index)
        object.__setattr__(self, "temporal_group", index.family.group_of(options.get("target_name", "")))
        super().__init__(base_layer, adapter_name, config=config, **options)  # type: ignore[call-arg]

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: LoraConfig, **options: Any) -> None:
        if not hasattr(self, "lora_temporal"):
            self.lora_temporal = nn.ModuleDict({})
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **options)  # type: ignore[misc]

    def resolve_lora_variant(self, *, config: LoraConfig, **options: Any) -> LoraVariant | None:
        if self.temporal_group in getattr(config, _GROUPS, ()):  # type: ignore[attr-defined]
            return TemporalVariant()
        return super().resolve_lora_variant(config=config, **options)  # type: ignore[misc]


class TemporalLinear(_Temporal, LoraLinear):  # type: ignore[misc]
    """On a layer that is not quantised."""


class TemporalLinear4bit(_Temporal, LoraLinear4bit):  # type: ignore[misc]
    """On a 4-bit layer."""


def enable(
    config: LoraConfig, index: FrameIndex, groups: tuple[TemporalGroup, ...] = (), kernel_size: int = 3
) -> LoraConfig:
    """The configuration, so that peft builds layers that can be temporal, and are in the parts named.

    Every adapter of a model that may ever have a temporal one is to be enabled, with no parts if it is plain: peft
    chooses the kind of layer once, when the first adapter comes.
    """
    setattr(config, _INDEX, index)
    setattr(config, _GROUPS, groups)
    setattr(config, _KERNEL, kernel_size)
    # In this order: a 4-bit layer is a linear layer, too.
    config._register_custom_module({bnb.nn.Linear4bit: TemporalLinear4bit, nn.Linear: TemporalLinear})
    return config


def check_offered(lora: LoraSpec, family: ModelFamily) -> None:
    """Raises `SpecError` where frames cannot be told apart in a part of this family."""
    for group in lora.temporal_groups:
        if group not in family.frame_layouts:
            offered = ", ".join(sorted(family.frame_layouts)) or "no part of it"
            raise SpecError(
                "lora.temporal_groups",
                f"{group} is not offered for {family.name}: where its frames' tokens lie is not known there",
                f"offered for this model: {offered}",
            )
