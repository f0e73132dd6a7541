"""A frozen base that does not fit one device: every rank holds a share of each layer, and has the whole layer only
while it computes in it (FSDP2, `torch.distributed.fsdp.fully_shard`).

Only the language model's layers are shared out, which in 4 bits are nearly all of a base; the adapter is whole at every
rank, so that optimizer, checkpoints and saving are those of a run whose base is whole everywhere. Layers are gathered
in the forward and in the backward pass, so ranks must run as many batches as each other: see `EvenBatches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.families import ModelFamily
from trainer_svc.qlora.model_loader import BaseModel, compute_dtype, load_base_model, name_of
from trainer_svc.qlora.ranks import Ranks
from trainer_svc.qlora.spec import QuantizationSpec, SpecError, TrainingSpec

_FOUR_BIT_SHARE = 0.3
"""Of the bytes of 16-bit weights, what is left in 4 bits with embeddings and tower as they were."""
_BASE_SHARE = 0.6
"""Of a device's memory, what a base may take beside activations."""


def wants_sharding(
    spec: TrainingSpec, folder: Path, ranks: Ranks, tell: Callable[[str], None], memory_bytes: int | None = None
) -> bool:
    """Whether the base in `folder` is to be shared out: as asked, or where it would leave a device too little room and
    nothing that is asked for stands against it, of which it `tell`s. All ranks must ask; the first one's answer counts.

    `memory_bytes`: of each device; None: what the first GPU has, and on CPUs enough. Raises `SpecError` when sharing is
    asked for together with what it is not offered with.
    """
    if ranks.count == 1 or spec.runtime.sharding == "off":
        return False
    rivals = _wanting_whole_layers(spec)
    if spec.runtime.sharding == "on":
        if rivals:
            raise SpecError(
                "base_sharing",
                f"cannot be ON together with {rivals[0]}, which wants whole layers",
                "leave out one of them (of a run without a cluster, base_sharing is runtime.sharding)",
            )
        return True
    if memory_bytes is None and torch.cuda.is_available():
        memory_bytes = torch.cuda.get_device_properties(0).total_memory
    fits = True
    if memory_bytes is not None:
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        needed = stored * (_FOUR_BIT_SHARE if spec.quantization.bits == 4 else 1.0)
        fits = needed <= _BASE_SHARE * memory_bytes
    if ranks.decide(fits):
        return False
    if rivals:
        tell(f"the base takes much of a device, and is not shared out because of {rivals[0]}, which wants whole layers")
    return not rivals


def _wanting_whole_layers(spec: TrainingSpec) -> list[str]:
    lora = spec.lora
    options = {
        "lora.rank_allocation": lora.rank_allocation.warmup_steps > 0,
        "lora.initialization": lora.initialization != "default",
        "lora.use_dora": lora.use_dora,
        "sample_predictions": spec.sample_predictions.count > 0,
    }
    return [name for name, is_asked in options.items() if is_asked]


def load_for_shards(folder: Path, quantization: QuantizationSpec) -> BaseModel:
    """As `load_base_model`, but into the machine's memory: the whole base would not fit a device."""
    if not torch.cuda.is_available():
        return load_base_model(folder, quantization)
    device = torch.device("cuda:0")
    dtype = compute_dtype(quantization, device)
    named = replace(quantization, compute_dtype=name_of(dtype))
    base = load_base_model(folder, named, torch.device("cpu"))
    return replace(base, device=device, quantization=quantization)


def shard_base(model: Any, family: ModelFamily, ranks: Ranks, device: torch.device) -> None:
    """Shares the layers of the language model out over the ranks, in place; `device` is where each computes. `model`
    has its adapter already, and may still lie in the machine's memory.
    """
    # Imported by the runs that need it: it takes a while.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.count,))
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    layers = language_layers(model, family)
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    shared = {id(parameter) for layer in layers for parameter in layer.parameters()}
    rest = {parameter for parameter in model.parameters() if id(parameter) not in shared}
    fully_shard(model, mesh=mesh, ignored_params=rest | whole)
    if device.type == "cuda":
        _move_the_rest(model, device, rest | whole)


def held_share(model: nn.Module) -> float:
    """Of the bytes of what is shared out, what this rank holds: 0 to 1."""
    from torch.distributed.tensor import DTensor

    shared = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    whole = sum(parameter.numel() * parameter.element_size() for parameter in shared)
    return sum(parameter.to_local().nbytes for parameter in shared) / max(1, whole)


def language_layers(model: nn.Module, family: ModelFamily) -> list[nn.Module]:
    """The blocks of the language model, in order."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and family.group_of(_plain(f"{name}.0")) == "language"
    ]
    # A block may hold lists of its own; the stack of blocks is the one that holds most.
    stack = max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
    return list(stack)


class EvenBatches:
    """Has every rank run as many batches as any other, the ones without another on what does not count."""

    def __init__(self, ranks: Ranks, is_needed: bool, filler: Callable[[], Batch]) -> None:
        """`filler`: makes a batch for a rank that has none."""
        self._ranks = ranks
        self._is_needed = is_needed
        self._make_filler = filler
        self._filler: Batch | None = None

    def batches(self, mine: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
        """This rank's batches, and whether each counts."""
        if not self._is_needed:
            yield from ((batch, True) for batch in mine)
            return
        upcoming = iter(mine)
        while True:
            batch = next(upcoming, None)
            if not self._ranks.totals([batch is not None])[0]:
                return
            if batch is None:
                self._filler = self._filler or self._make_filler()
            yield batch or self._filler, batch is not None  # type: ignore[misc]


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _move_the_rest(model: nn.Module, device: torch.device, whole: set[nn.Parameter]) -> None:
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set)
        if (state := getattr(module, "quant_state", None)) is not None:
            state.to(device)
