"""The adapter on disk: the files plain peft loads, and beside them what it was made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from trainer_svc.qlora import temporal_aware_lora
from trainer_svc.qlora.adapter_card import adapter_card
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.folder_files import write_folder, write_json
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.spec import TemporalGroup, TrainingSpec

SIDECAR = "reeltune_adapter.json"
_FORMAT = 1
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def write_adapter(
    folder: Path,
    model: Any,
    base: BaseModel,
    spec: TrainingSpec,
    training: dict[str, Any],
    *,
    allocation: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes `adapter_model.safetensors`, `adapter_config.json`, the sidecar, a README and, last, the manifest; returns
    it.

    `training` is added to the sidecar: steps done and the like. `allocation`: the report on ranks that differ by layer,
    written beside it. `tensors`: as `adapter_tensors` gave them earlier; None for the adapter as it is.
    """

    def fill(building: Path) -> None:
        weights = adapter_tensors(model) if tensors is None else tensors
        save_file(weights, building / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy.copy(model.peft_config["default"])
        config.inference_mode = True
        # Where the base model lay on the machine that trained says nothing to anybody else.
        config.base_model_name_or_path = ""
        config.save_pretrained(str(building))
        sidecar = _sidecar(base, spec, training)
        write_json(building / SIDECAR, sidecar)
        (building / "README.md").write_text(adapter_card(sidecar), "utf-8")
        if allocation is not None:
            write_json(building / "rank_allocation.json", allocation)

    return write_folder(folder, fill)


def adapter_tensors(model: Any) -> dict[str, Any]:
    """The adapter's weights under the names that peft loads them by, on the CPU."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


@dataclass(frozen=True, slots=True)
class AdapterPlugin:
    """What an adapter needs beside peft."""

    temporal_groups: tuple[TemporalGroup, ...] = ()
    temporal_kernel_size: int = 3


def check_adapter(folder: Path, base_fingerprint: str) -> AdapterPlugin:
    """What the adapter in `folder` needs. Raises `BadDataError` for a folder that is no adapter of safetensors, or one
    made for another base model, by another version of us or with a plugin that is not here."""
    if not (folder / "adapter_model.safetensors").is_file() or not (folder / "adapter_config.json").is_file():
        raise BadDataError(
            f"{folder.name} holds no adapter", "give a folder with adapter_config.json and adapter_model.safetensors"
        )
    try:
        sidecar = json.loads((folder / SIDECAR).read_bytes())
    except FileNotFoundError:
        # A plain peft adapter from elsewhere: nothing is known about its base, so nothing can be checked.
        return AdapterPlugin()
    if sidecar.get("format") != _FORMAT:
        raise BadDataError("the adapter was made by another version of Reeltune", "use the version that made it")
    made_for = sidecar["base"]["fingerprint"]
    if made_for != base_fingerprint:
        raise BadDataError(
            f"the adapter was trained on the base model {made_for[:19]}…, not on this one ({base_fingerprint[:19]}…)",
            "use it with the base model it was trained on",
        )
    return _plugin(sidecar.get("plugin"))


def quantization_note(folder: Path, base: BaseModel) -> str:
    """What there is to say where an adapter is put on a base that is held otherwise than the one it was trained on: it
    has learned to make up for that one's errors. Empty where there is nothing."""
    try:
        told = json.loads((folder / SIDECAR).read_bytes())["quantization"]
    except FileNotFoundError:
        return ""
    trained, held = _weights_held(told), _weights_held(_quantization(base))
    if trained == held:
        return ""
    return f"the adapter was trained on a base held in {trained}, and this one is held in {held}: expect other answers"


def _weights_held(quantization: Mapping[str, Any]) -> str:
    if quantization["scheme"] == "none":
        return "full precision"
    return f"{quantization['scheme'].upper()}{', its vision tower too' if quantization['quantize_vision'] else ''}"


def _plugin(value: dict[str, Any] | None) -> AdapterPlugin:
    if value is None:
        return AdapterPlugin()
    if (value.get("name"), value.get("version")) != (temporal_aware_lora.PLUGIN, temporal_aware_lora.VERSION):
        raise BadDataError(
            f"the adapter needs the plugin {value.get('name')} in version {value.get('version')}",
            "use the version of Reeltune that made it; without the plugin it would answer differently",
        )
    return AdapterPlugin(tuple(value["groups"]), int(value["kernel_size"]))


def _sidecar(base: BaseModel, spec: TrainingSpec, training: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "plugin": named_plugin(spec),
        "base": {"model_type": base.family.name, "fingerprint": base.fingerprint},
        "quantization": _quantization(base),
        "spec": spec.to_dict(),
        "training": training,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _quantization(base: BaseModel) -> dict[str, Any]:
    return {
        "scheme": "nf4" if base.quantization.bits == 4 else "none",
        "double_quantization": base.quantization.double_quantization,
        "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
        "quantize_vision": base.quantization.quantize_vision,
        "skipped_modules": base.family.skip_modules(base.quantization.quantize_vision),
    }


def named_plugin(spec: TrainingSpec) -> dict[str, Any] | None:
    """What adapters of this specification need beside peft, for their sidecar; None for nothing."""
    if not spec.lora.temporal_groups:
        return None
    return {
        "name": temporal_aware_lora.PLUGIN,
        "version": temporal_aware_lora.VERSION,
        "groups": list(spec.lora.temporal_groups),
        "kernel_size": spec.lora.temporal_kernel_size,
    }
