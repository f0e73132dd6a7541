"""Writes a temporal adapter as plain LoRA, which any peft loads, and tells what that loses.

    python -m trainer_svc.qlora.static_export --adapter DIR --out DIR

In the tower, where all tokens are a clip's, the convolution's middle weight concerns a token alone and goes into A
exactly: `A' = diag(1 + w_0) A`. All other weights are left out: those that look at other frames, and in the language
model, where words pass through the same A, the middle one, too. Their share of the mixing is printed for each layer.
How much worse the answers become only an evaluation of both adapters can tell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer_svc.qlora.adapter_files import SIDECAR
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.families import FAMILIES
from trainer_svc.qlora.folder_files import write_folder, write_json
from trainer_svc.qlora.temporal_aware_lora import PLUGIN, VERSION

_WEIGHTS = "adapter_model.safetensors"
_MIXING = ".lora_temporal.weight"
_DOWN = ".lora_A.weight"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the temporal adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    options = parser.parse_args(arguments)
    try:
        lost = export_static(options.adapter, options.out)
    except BadDataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for layer, share in sorted(lost.items()):
        sys.stdout.write(f"{share:7.2%} of the mixing lost  {layer}\n")
    sys.stdout.write(
        f"{options.out} is plain LoRA now; {max(lost.values()):.2%} of the mixing is lost in the worst layer. "
        "Evaluate it before you use it.\n"
    )
    return 0


def export_static(adapter: Path, out: Path) -> dict[str, float]:
    """Writes `out`, and returns for each layer the share of its mixing that is lost, 0 to 1: the norm of the weights
    left out to that of all, the token's own weight of 1 among them.

    Raises `BadDataError` for a folder that holds no temporal adapter, and for an `out` that exists.
    """
    if out.exists():
        raise BadDataError(f"{out} exists", "name a folder that does not")
    sidecar, tensors = _read(adapter)
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(_MIXING)}
    family = FAMILIES[sidecar["base"]["model_type"]]
    lost = {}
    for name in tensors.keys() - plain.keys():
        weight, layer = tensors[name], name.removesuffix(_MIXING)
        module = layer.removeprefix("base_model.model.")
        kept = torch.ones(len(weight), 1)
        if family.group_of(module) == "vision":
            here = weight.shape[1] // 2
            kept = kept + weight[:, here : here + 1]
            plain[layer + _DOWN] = (kept * plain[layer + _DOWN]).contiguous()
            weight = torch.cat([weight[:, :here], weight[:, here + 1 :]], dim=1)
        lost[module] = float(weight.norm() / torch.hypot(weight.norm(), kept.norm()))

    def fill(building: Path) -> None:
        save_file(plain, building / _WEIGHTS, metadata={"format": "pt"})
        shutil.copyfile(adapter / "adapter_config.json", building / "adapter_config.json")
        exported = {"from": PLUGIN, "mixing_lost": max(lost.values())}
        write_json(building / SIDECAR, {**sidecar, "plugin": None, "exported": exported})

    write_folder(out, fill)
    return lost


def _read(adapter: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        sidecar = json.loads((adapter / SIDECAR).read_bytes())
        plugin = sidecar.get("plugin") or {}
        if (plugin.get("name"), plugin.get("version")) != (PLUGIN, VERSION):
            raise BadDataError(f"{adapter} is no temporal adapter", "a plain one needs no export")
        tensors = load_file(adapter / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadDataError(f"{adapter} holds no adapter of Reeltune: {error}", "name the folder of one") from error
    if not any(name.endswith(_MIXING) for name in tensors):
        raise BadDataError(f"{adapter} lacks its temporal weights", "download the adapter again")
    return sidecar, tensors


if __name__ == "__main__":
    sys.exit(main())
