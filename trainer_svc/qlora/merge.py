"""Merges an adapter into its base model and proves what came of it: one method, read from top to bottom.

The adapter was trained on quantised weights. Into these, expanded again, it merges as it was trained; into the base
model's own 16-bit weights it merges with an error of the size of the quantisation's, which is measured and told. Either
way the merged model is written in bf16, loaded again, and held against base and adapter on rows of the dataset.

Memory: the 4-bit model and the 16-bit one together, some 2.5 bytes for each quantised weight and 4 for each other;
layers are merged one by one in fp32.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from trainer_svc.qlora.adapter_files import check_adapter
from trainer_svc.qlora.after_training_spec import MergeSpec, MergeWeights
from trainer_svc.qlora.dataset_rows import Sample, load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.folder_files import write_folder, write_json
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.merge_check import LogitComparison, LogitFiles, compare, token_logits
from trainer_svc.qlora.merge_report import build_merge_report, merge_card
from trainer_svc.qlora.messages import Completed, Log, Progress, Started, Starting, Stopped
from trainer_svc.qlora.model_loader import BaseModel, load_base_model
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import QuantizationSpec, TrainingSpec

REPORT = "reeltune_merge.json"
_SHARD_BYTES = "2GB"
_BESIDE_WEIGHTS = (".json", ".jinja", ".txt", ".model")
_CPU = torch.device("cpu")


class _StoppedError(Exception):
    """A stop was asked for: a merge has nothing to show before its end."""


@dataclass(frozen=True, slots=True)
class MergedLayers:
    """What became of the layers that the adapter changes."""

    layers: int
    update_error: float
    """||merged - (weights trained on + update)|| / ||update||, over all of them."""


@dataclass(slots=True)
class _Steps:
    """Counts steps, tells of them, and looks out for a stop between two."""

    run: RunContext
    total: int
    done: int = 0

    def next(self) -> None:
        """Raises `_StoppedError` when a stop was asked for."""
        self.done += 1
        self.run.report(Progress(self.done, self.total, 0, self.done / self.total))
        if self.run.stop_requested():
            raise _StoppedError


def merge(run: RunContext, spec: TrainingSpec, wanted: MergeSpec, adapter: Path) -> None:
    """Merges and reports; the last message is Completed or Stopped.

    Raises the typed errors of this package (see `failures`), `BadDataError` for an adapter that cannot be merged.
    """
    if spec.runtime.threads:
        torch.set_num_threads(spec.runtime.threads)
    try:
        _merge(run, spec, wanted, adapter)
    except _StoppedError:
        reason = run.stop_requested()
        assert reason is not None
        run.report(Stopped(reason, 0, None, None, None))


def _merge(run: RunContext, spec: TrainingSpec, wanted: MergeSpec, adapter: Path) -> None:
    run.report(Starting("dataset"))
    samples = load_samples(run.folders.dataset)
    if not samples:
        raise BadDataError("there is no row to hold the merged model against", "name a split that has rows")
    artifact, logits = run.folders.out / "artifact", LogitFiles(run.folders.out / "logits")
    with ExitStack() as stack:
        pool = stack.enter_context(DecodePool.of(spec.runtime))
        stack.callback(logits.remove)
        run.report(Starting("model"))
        trained_on = load_base_model(run.folders.model, spec.quantization)
        _check_mergeable(adapter, trained_on)
        run.report(Starting("adapter"))
        adapters = AdapterSet(trained_on, 1, max_bytes=sys.maxsize)
        with adapters.active(str(adapter)) as tuned:
            layers = sum(isinstance(module, LoraLayer) for module in tuned.modules())
        if not layers:
            raise BadDataError("the adapter changes no layer: all its ranks are 0", "train one that does")
        run.report(Starting("first_step"))
        run.report(_started(trained_on, pool, samples, layers))
        steps = _Steps(run, 2 * len(samples) + layers + 1)
        for number, sample in enumerate(samples):
            with adapters.active(None) as plain:
                base_logits = token_logits(plain, trained_on, sample, pool, spec)
            with adapters.active(str(adapter)) as tuned:
                logits.write(number, base_logits, token_logits(tuned, trained_on, sample, pool, spec))
            steps.next()
        merged, model = _merged_model(run.folders.model, adapter, wanted, trained_on, steps)
        del trained_on, adapters, plain, tuned
        gc.collect()

        found: list[LogitComparison] = []

        def fill(building: Path) -> None:
            _write_model(building, model, run.folders.model)
            steps.next()
            found.append(_compare(building, spec, samples, pool, logits, steps))
            report = build_merge_report(wanted, spec.quantization, merged, found[0], len(samples))
            for note in report["notes"]:
                run.report(Log("warning", note))
            write_json(building / REPORT, report)
            (building / "README.md").write_text(merge_card(report), "utf-8")

        manifest = write_folder(artifact, fill)
    run.report(Completed(str(artifact), manifest, steps.total, found[0].merged_loss))


def _check_mergeable(adapter: Path, base: BaseModel) -> None:
    plugin = check_adapter(adapter, base.fingerprint)
    if plugin.temporal_groups:
        raise BadDataError(
            "the adapter mixes tokens along time (lora.temporal_groups), which no weight matrix can hold",
            "ask the adapter itself, or export what is left of it as plain LoRA",
        )


def _merged_model(
    folder: Path, adapter: Path, wanted: MergeSpec, trained_on: BaseModel, steps: _Steps
) -> tuple[MergedLayers, Any]:
    """The model in bf16 on the CPU with the adapter in its weights, without any trace of peft."""
    base = load_base_model(folder, QuantizationSpec(bits=16, compute_dtype="bf16"), _CPU)
    expanded = dict(_quantized_layers(trained_on.model))
    into_quantized = wanted.weights is MergeWeights.DEQUANTIZED
    if into_quantized:
        for name, expand in expanded.items():
            base.model.get_submodule(name).weight.data = expand().to(torch.bfloat16)
    adapters = AdapterSet(base, 1, max_bytes=sys.maxsize)
    error, size, changed = 0.0, 0.0, False
    with adapters.active(str(adapter)) as model, torch.no_grad():
        inner = model.get_base_model()
        layers = [(name, module) for name, module in inner.named_modules() if isinstance(module, LoraLayer)]
        for name, layer in layers:
            target: Any = layer.get_base_layer()
            trained = expanded[name]().float() if name in expanded else target.weight.data.float()
            start = trained if into_quantized else target.weight.data.float()
            target.weight.data = start.clone()
            layer.merge(safe_merge=True)
            update = target.weight.data - start
            rounded = target.weight.data.to(torch.bfloat16)
            error += float((rounded.float() - (trained + update)).square().sum())
            size += float(update.square().sum())
            changed = changed or not torch.equal(rounded, start.to(torch.bfloat16))
            target.weight.data = rounded
            steps.next()
        merged = model.unload()
    if not changed:
        raise BadDataError(
            "merging changes nothing: what was learned is smaller than bf16 can hold",
            "train longer, or at a higher rate",
        )
    return MergedLayers(len(layers), (error / size) ** 0.5 if size else 0.0), merged


def _quantized_layers(model: Any) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """(name, what expands it) of each 4-bit layer, under the name that it has without an adapter around it."""
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            yield name.removesuffix(".base_layer"), _expander(module.weight)


def _expander(weight: Any) -> Callable[[], Tensor]:
    return lambda: bnb.functional.dequantize_4bit(weight.data, weight.quant_state).to(_CPU)


def _write_model(building: Path, model: Any, base: Path) -> None:
    """Weights in shards, the configuration, and from beside the base model's weights its tokenizer and processor."""
    model.save_pretrained(building, max_shard_size=_SHARD_BYTES)
    for file in sorted(base.iterdir()):
        if (
            file.suffix in _BESIDE_WEIGHTS
            and not file.name.endswith(".index.json")
            and not (building / file.name).exists()
        ):
            shutil.copyfile(file, building / file.name)


def _compare(
    folder: Path, spec: TrainingSpec, samples: list[Sample], pool: DecodePool, logits: LogitFiles, steps: _Steps
) -> LogitComparison:
    """Loads what was written as anybody would, and holds it against what base and adapter said."""
    written = load_base_model(folder, QuantizationSpec(bits=16, compute_dtype=spec.quantization.compute_dtype))
    written.model.eval()
    rows = []
    for number, sample in enumerate(samples):
        base_said, adapter_said = logits.read(number)
        rows.append(compare(base_said, adapter_said, token_logits(written.model, written, sample, pool, spec)))
        steps.next()
    return LogitComparison.over(rows)


def _started(base: BaseModel, pool: DecodePool, samples: list[Sample], layers: int) -> Started:
    return Started(
        total_steps=2 * len(samples) + layers + 1,
        start_step=0,
        trainable_parameters=0,
        total_parameters=base.audit.parameters,
        samples=len(samples),
        eval_samples=len(samples),
        device=base.device_name,
        decoder=pool.decoder,
        quantized_layers=base.audit.quantized_layers,
    )
