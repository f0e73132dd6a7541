"""What adapters begin with, other than random A and zero B: EVA and LoftQ, both in place.

Neither is left to peft's own functions: its EVA goes over the batches again and again until it thinks that all
components have settled, and for ever when a batch has fewer tokens than a layer has ranks; its LoftQ runs on CUDA
only, and takes every scale (alpha / rank) for 1, which at any other makes up for too much or too little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft.utils.incremental_pca import IncrementalPCA
from torch import Tensor

from trainer_svc.qlora.base_weights import BaseWeights
from trainer_svc.qlora.batch_stream import BatchStream
from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.spec import TrainingSpec

CALIBRATION_BATCHES = 16
_PREFIX = "base_model.model."
_ADAPTER = "default"


def start_adapter(
    base: BaseModel,
    model: Any,
    spec: TrainingSpec,
    folder: Path,
    batches: Callable[[int], AbstractContextManager[BatchStream]],
    loss: Callable[[Batch], Tensor],
    told: Callable[[], None] = lambda: None,
) -> str:
    """Gives the adapter of `model` what `lora.initialization` asks for; returns what was done, in words.

    Args:
        folder: The base model's files.
        batches: Makes a stream of so many groups of the training data.
        loss: Runs the model on a batch.
        told: Called after each batch or layer: on large models all of them take long.

    Raises:
        ModelRefusedError: LoftQ does not find the weights that were quantised.
    """
    if spec.lora.initialization == "loftq":
        return _make_up_for_quantization(model, folder, spec.optimization.seed, told)
    with batches(CALIBRATION_BATCHES) as stream:
        batches_told = _each_told(chain.from_iterable(stream), told)
        return _follow_activations(base, model, batches_told, loss, spec.optimization.seed)


def _each_told(batches: Iterable[Batch], told: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        told()


def _follow_activations(
    base: BaseModel, model: Any, batches: Iterable[Batch], loss: Callable[[Batch], Tensor], seed: int
) -> str:
    """A of each layer becomes the directions in which its inputs vary most (EVA); B stays zero.

    In evaluation mode and without gradients, which is why 4-bit weights must be kept from being repacked: see
    `model_loader.guard_cpu_quantization`.
    """
    layers = _adapted(model)
    watched = {name: _Inputs(layer, seed) for name, layer in layers.items()}
    handles = [layer.register_forward_pre_hook(watched[name]) for name, layer in layers.items()]
    count = 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                mask = _mask(batch, base.device)
                for inputs in watched.values():
                    inputs.mask = mask
                loss(batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    with torch.no_grad():
        for name, layer in layers.items():
            directions = watched[name].directions()
            weight = layer.lora_A[_ADAPTER].weight
            weight[: len(directions)] = directions.to(weight)
    return f"adapter begins along the activations of {count} batches, in {len(layers)} layers (EVA)"


class _Inputs:
    """The principal directions of what one layer is given, batch by batch."""

    def __init__(self, layer: Any, seed: int) -> None:
        self.mask: Tensor | None = None
        a = layer.lora_A[_ADAPTER].weight
        self._count = min(a.shape)
        # Sketched where that is less work: exact where the sketch would be as large as the matrix.
        sketched = 4 * self._count <= a.shape[1]
        self._needed = 2 * self._count if sketched else self._count
        self._pca = IncrementalPCA(n_components=self._count, copy=True, lowrank=sketched, lowrank_seed=seed)
        self._rows: list[Tensor] = []

    def __call__(self, module: Any, arguments: tuple[Any, ...]) -> None:
        given = arguments[0].detach()
        if self.mask is not None and given.ndim == 3 and given.shape[:2] == self.mask.shape:
            given = given[self.mask]
        self._rows.append(given.reshape(-1, given.shape[-1]).float())
        if sum(len(rows) for rows in self._rows) >= self._needed:
            self._pca.partial_fit(torch.cat(self._rows))
            self._rows = []

    def directions(self) -> Tensor:
        """fp32 (at most rank, inputs), orthonormal rows, the one with most variance first."""
        if hasattr(self._pca, "components_"):
            return torch.as_tensor(self._pca.components_)
        if not self._rows:
            return torch.zeros(0, 1)
        rows = torch.cat(self._rows)
        directions: Tensor = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False).Vh
        return directions[: self._count]


def _make_up_for_quantization(model: Any, folder: Path, seed: int, told: Callable[[], None]) -> str:
    """A and B of each 4-bit layer become the best approximation of what quantisation lost (LoftQ, one round):
    scale * B A is the truncated singular value decomposition of W - W4."""
    before, after = 0.0, 0.0
    layers = {name: layer for name, layer in _adapted(model).items() if _is_4bit(layer)}
    with BaseWeights(folder) as weights, torch.no_grad():
        for name, layer in layers.items():
            frozen = layer.get_base_layer().weight
            held = bnb.functional.dequantize_4bit(frozen.data, frozen.quant_state).float()
            lost = weights.of_layer(name, held) - held
            a, b, scale = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight, layer.scaling[_ADAPTER]
            u, sigma, v = _largest_components(lost, a.shape[0], seed)
            rank = min(a.shape[0], len(sigma))
            root = (sigma[:rank] / scale).sqrt()
            # Ranks beyond what the matrix has stay random in A and zero in B.
            a[:rank] = (root[:, None] * v[:rank]).to(a)
            b.zero_()
            b[:, :rank] = (u[:, :rank] * root).to(b)
            before += float(lost.square().sum())
            after += float((lost - scale * (b @ a)).square().sum())
            told()
    kept = (after / before) ** 0.5 if before else 0.0
    return f"adapter makes up for quantisation in {len(layers)} layers: {kept:.0%} of the error is left (LoftQ)"


def _largest_components(matrix: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V^T of at least the `count` largest singular values: of a large matrix by a randomised decomposition
    (Halko et al., arXiv:0909.4061, algorithm 5.1), for the whole one takes tens of seconds a layer."""
    sketched = 2 * count + 8
    if 4 * sketched > min(matrix.shape):
        u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, sigma, vh
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(seed)
        u, sigma, v = torch.svd_lowrank(matrix, q=sketched, niter=4)
    return u, sigma, v.T


def _adapted(model: Any) -> dict[str, Any]:
    return {name.removeprefix(_PREFIX): module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _is_4bit(layer: Any) -> bool:
    return isinstance(layer.get_base_layer(), bnb.nn.Linear4bit)


def _mask(batch: Batch, device: torch.device) -> Tensor | None:
    mask = batch.inputs.get("attention_mask")
    return mask.to(device).bool() if isinstance(mask, Tensor) else None
