"""`memory_4bit`: bytes of the language model's linear weights in NF4 against the same weights in bf16.

A Qwen3-VL of 160 million random weights, loaded as training loads it; counted are the packed weights and all constants
of their quantisation. Told beside it: the peak memory of a LoRA run of a few steps on either, both in bf16, each in a
process of its own; and what a process holds that has loaded the training libraries and no model.

At this size the peaks say little of the weights: libraries and activations outweigh them. On a CPU a bf16 base is
nothing but mapped pages of its checkpoint, which the kernel takes back when memory is short; they count here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Result, print_result
from benchmarks.training_loop import ENVIRONMENT, make_material, points_of

GOAL = 0.32
MIB = 1 << 20
STEPS = 3


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        make_material(work / "small", work / "dataset", clips=8)
        in_child("build", work / "model")
        four, sixteen = (in_child("weigh", work / "model", bits) for bits in (4, 16))
        empty = in_child("weigh", work / "model", 0)
        peaks = {bits: peak_of_run(work, bits) for bits in (4, 16)}
    print_result(
        Result(
            name="memory_4bit",
            ratio=four["bytes"] / sixteen["bytes"],
            goal=GOAL,
            higher_is_better=False,
            figures={
                "nf4_weight_mib": four["bytes"] / MIB,
                "bf16_weight_mib": sixteen["bytes"] / MIB,
                "nf4_bits_per_weight": 8 * four["bytes"] / four["weights"],
                "nf4_run_peak_mib": peaks[4] / MIB,
                "bf16_run_peak_mib": peaks[16] / MIB,
                "libraries_alone_mib": empty["peak"] / MIB,
                "run_peak_ratio": peaks[4] / peaks[16],
                "run_peak_ratio_without_libraries": (peaks[4] - empty["peak"]) / (peaks[16] - empty["peak"]),
            },
        )
    )


def peak_of_run(work: Path, bits: int) -> float:
    """Bytes that a training process has held at most."""
    settings = {
        "optimization.max_steps": STEPS,
        "optimization.gradient_checkpointing": "true",
        "quantization.bits": bits,
        "quantization.compute_dtype": "bf16",
    }
    points = points_of(work / "model", work / "dataset", work / f"out{bits}", settings)
    return max(point["values"].get("peak_memory_bytes", 0.0) for point in points)


def in_child(what: str, model: Path, bits: int = 0) -> dict[str, float]:
    """Runs `build` or `weigh` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_4bit", what, str(model), str(bits)]
    finished = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    if finished.returncode:
        sys.exit(f"{what} failed:\n{finished.stderr[-2000:]}")
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def build(folder: Path) -> dict[str, float]:
    """A random model whose weights outweigh the libraries, with the demo's processor, in bf16."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from trainer_svc.qlora.tiny_base import build_model, build_processor

    processor = build_processor()
    config = build_model(processor.tokenizer, seed=0).config
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 1024, 3072, 12
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 16, 8, 64
    text.rope_parameters["mrope_section"] = [12, 10, 10]
    config.vision_config.out_hidden_size = 1024
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"weights": float(sum(weight.numel() for weight in model.parameters()))}


def weigh(folder: Path, bits: int) -> dict[str, float]:
    """Bytes and number of the weights that 4 bits are for; with `bits` 0, no model is loaded."""
    import bitsandbytes as bnb
    import torch

    from trainer_svc.qlora.model_loader import load_base_model
    from trainer_svc.qlora.spec import QuantizationSpec
    from trainer_svc.qlora.step_meter import peak_memory

    held, weights = 0, 0
    if bits:
        base = load_base_model(folder, QuantizationSpec(bits=bits, compute_dtype="bf16"))
        for name, module in base.model.named_modules():
            if isinstance(module, torch.nn.Linear) and base.family.group_of(name) == "language":
                held += module.weight.nbytes
                weights += module.in_features * module.out_features
                if isinstance(module, bnb.nn.Linear4bit):
                    held += sum(value.nbytes for value in constants_of(module.weight.quant_state))
    return {"bytes": float(held), "weights": float(weights), "peak": float(peak_memory(torch.device("cpu")))}


def constants_of(state: Any) -> list[Any]:
    """The tensors of a quantised weight besides its packed values, those of its doubly quantised constants included."""
    nested = constants_of(state.state2) if state.state2 is not None else []
    offset = [state.offset] if getattr(state, "offset", None) is not None else []
    return [state.absmax, state.code, *offset, *nested]


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        task, folder, bits = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
        print(json.dumps(build(folder) if task == "build" else weigh(folder, bits)))
