"""The adapter on disk: the files plain peft loads, and beside them what it was made from."""

from __future__ import annotations

import copy
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.folder_files import write_folder, write_json
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.spec import TrainingSpec

SIDECAR = "reeltune_adapter.json"
_FORMAT = 1
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def write_adapter(
    folder: Path, model: Any, base: BaseModel, spec: TrainingSpec, training: dict[str, Any]
) -> dict[str, Any]:
    """Writes `adapter_model.safetensors`, `adapter_config.json`, the sidecar and, last, the manifest; returns it.

    `training` is added to the sidecar: steps done and the like.
    """

    def fill(building: Path) -> None:
        save_file(adapter_tensors(model), building / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy.copy(model.peft_config["default"])
        config.inference_mode = True
        # Where the base model lay on the machine that trained says nothing to anybody else.
        config.base_model_name_or_path = ""
        config.save_pretrained(str(building))
        write_json(building / SIDECAR, _sidecar(base, spec, training))

    return write_folder(folder, fill)


def adapter_tensors(model: Any) -> dict[str, Any]:
    """The adapter's weights under the names that peft loads them by, on the CPU."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def check_adapter(folder: Path, base_fingerprint: str) -> None:
    """Raises `BadDataError` for a folder that is no adapter of safetensors, or one made for another base model or by
    another version of us."""
    if not (folder / "adapter_model.safetensors").is_file() or not (folder / "adapter_config.json").is_file():
        raise BadDataError(
            f"{folder.name} holds no adapter", "give a folder with adapter_config.json and adapter_model.safetensors"
        )
    try:
        sidecar = json.loads((folder / SIDECAR).read_bytes())
    except FileNotFoundError:
        return  # A plain peft adapter from elsewhere: nothing is known about its base, so nothing can be checked.
    if sidecar.get("format") != _FORMAT or sidecar.get("plugin"):
        raise BadDataError("the adapter was made by another version of Reeltune", "use the version that made it")
    made_for = sidecar["base"]["fingerprint"]
    if made_for != base_fingerprint:
        raise BadDataError(
            f"the adapter was trained on the base model {made_for[:19]}…, not on this one ({base_fingerprint[:19]}…)",
            "use it with the base model it was trained on",
        )


def _sidecar(base: BaseModel, spec: TrainingSpec, training: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "plugin": None,
        "base": {"model_type": base.family.name, "fingerprint": base.fingerprint},
        "quantization": {
            "scheme": "nf4" if base.quantization.bits == 4 else "none",
            "double_quantization": base.quantization.double_quantization,
            "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
            "quantize_vision": base.quantization.quantize_vision,
            "skipped_modules": base.family.skip_modules(base.quantization.quantize_vision),
        },
        "spec": spec.to_dict(),
        "training": training,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
