"""`estimate_error`: the memory that an estimate predicts for a job against what real runs of it have at the highest.

Each run trains on one thread of this machine's CPU in a process of its own, whose anonymous memory and processor time
are watched, so that what else the machine does counts for little; models with random weights of several sizes and
families, and the demo's model; with and without checkpointing, dropout, DoRA, an adapter on the vision tower, and
16-bit computing. Predicted is what `EstimateTrainingJob` says of a CPU, less the decode process and the frame cache
that such a short run does not fill. The ratio is the largest error in memory of any run: measured to predicted or the
other way round, whichever is above 1. Beside it the same for what the job adds to the libraries' own memory, and for
the time of a step, where the probe's matrix product is all that is known of the machine's speed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from benchmarks.report import Result, print_result
from catalog_svc.domain.frame_rule import frame_rule
from catalog_svc.domain.model import ModelFacts
from catalog_svc.domain.model_parts import model_parts, vocabulary_size
from catalog_svc.rpc.convert_model import model_facts_to_proto
from reeltune_cli.demo.recipe import SHIPPED_BASE
from scheduler_svc.clients.catalog_shapes import model_shape_from_proto
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape, RowShape, ShapeClip
from scheduler_svc.domain.estimate.fit import Estimate, estimate_job
from scheduler_svc.domain.estimate.memory import DECODING_BYTES, MemoryPart
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.job import DeviceClass
from scheduler_svc.domain.parameters import TrainingParameters, parameters_from_json

GOAL = 1.25
STEPS = 3
CLIP = ShapeClip(160, 160, 24, 12.0)
ANSWER, QUESTION = "The red one comes first.", "Which colour comes first?"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
"""Time is the processor's, on one thread: whatever else this machine does counts for nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    name: str
    model: str
    """Of `estimate_material`; `demo` for the demo's."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    optimization: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 8


CASES = (
    Case("demo", "demo", optimization={"batch_size": 16, "gradient_checkpointing": False}),
    Case("wide", "wide"),
    Case("wide_all_kept", "wide", {"dropout": 0.0}, optimization={"gradient_checkpointing": False, "batch_size": 2}),
    Case("wide_vision", "wide", {"target_groups": ["VISION", "LANGUAGE"]}, optimization={"batch_size": 4}),
    Case("large", "large", optimization={"batch_size": 1}),
    Case("large_16bit", "large", quantization={"type": "NONE"}, frames=2, optimization={"batch_size": 1}),
    Case("wide_dora", "wide", {"use_dora": True}, optimization={"batch_size": 2}),
    Case("internvl", "internvl", optimization={"batch_size": 2}),
)


def main() -> None:
    speed = _matmul_flops()
    figures: dict[str, float] = {}
    whole, added, times = [], [], []
    with TemporaryDirectory() as folder:
        work = Path(folder)
        _python("-m", "benchmarks.estimate_material", str(work))
        shapes = {name: shape_of(path) for name, path in _models(work).items()}
        for case in CASES:
            run = measure(case, work)
            estimate = predict(case, shapes[case.model], speed)
            memory = estimate.memory
            predicted = memory.total - DECODING_BYTES
            runtime = memory.of(MemoryPart.RUNTIME)
            assert estimate.duration is not None
            whole.append(run["peak_bytes"] / predicted)
            added.append((run["peak_bytes"] - run["bytes_before_model"]) / (predicted - runtime))
            times.append(run["step_seconds"] / estimate.duration.step_seconds)
            figures |= {
                f"{case.name}_predicted_mb": predicted / 1e6,
                f"{case.name}_measured_mb": run["peak_bytes"] / 1e6,
                f"{case.name}_added_measured_to_predicted": added[-1],
                f"{case.name}_step_measured_to_predicted": times[-1],
            }
    figures |= {
        "largest_error_of_what_is_added": max(_error(ratio) for ratio in added),
        "median_error_of_what_is_added": statistics.median(_error(ratio) for ratio in added),
        "largest_error_of_a_step": max(_error(ratio) for ratio in times),
        "median_error_of_a_step": statistics.median(_error(ratio) for ratio in times),
        "matmul_gflops": speed / 1e9,
    }
    worst = max(_error(ratio) for ratio in whole)
    print_result(Result("estimate_error", worst, GOAL, higher_is_better=False, figures=figures))


def predict(case: Case, model: ModelShape, matmul_flops: float) -> Estimate:
    """What the scheduler says of the case."""
    place = Place(DeviceClass.CPU, matmul_flops=matmul_flops)
    dataset = DatasetShape(
        (RowShape(16, (CLIP,)),),
        rows=16,
        max_text=len(QUESTION + ANSWER),
        mean_text=len(QUESTION + ANSWER),
        max_answer=len(ANSWER),
        mean_answer=len(ANSWER),
    )
    return estimate_job(model, dataset, _parameters(case), place)


def measure(case: Case, work: Path) -> dict[str, float]:
    """What a run of the case comes to."""
    settings = [f"sampling.max_frames={case.frames}", f"optimization.max_steps={STEPS}", "checkpoint_every_steps=0"]
    # As jobs have them; the library's own defaults are others.
    settings += ["optimization.gradient_accumulation_steps=1", "lora.dropout=0.05", "optimization.batch_size=4"]
    settings += [f"optimization.{name}={json.dumps(value)}" for name, value in case.optimization.items()]
    settings += [f"lora.{name}={json.dumps(value).lower()}" for name, value in case.lora.items()]
    settings += ["quantization.bits=16"] if case.quantization.get("type") == "NONE" else []
    model, out = _models(work)[case.model], work / f"out-{case.name}"
    printed = _python("-m", "benchmarks.measured_run", str(model), str(work / "clips"), str(out), *settings)
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def shape_of(folder: Path) -> ModelShape:
    """The model as the scheduler hears of it from the catalog."""
    config = json.loads((folder / "config.json").read_text())
    processor = json.loads((folder / "processor_config.json").read_text())
    tensors = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            tensors += [(name, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()]  # noqa: SIM118
    facts = ModelFacts(
        *(config["model_type"], "", 0, 0, 0, 0, 0, True, ""),
        parts=model_parts(tensors),
        frame_rule=frame_rule(config, processor, processor["video_processor"]),
        vocabulary_size=vocabulary_size(tensors),
    )
    shape = model_shape_from_proto(model_facts_to_proto(facts))
    assert shape is not None
    return shape


def _parameters(case: Case) -> TrainingParameters:
    given = {
        "lora": case.lora,
        "quantization": case.quantization,
        "optimization": {**case.optimization, "max_steps": STEPS, "epochs": None},
        "sampling": {"max_frames": case.frames},
    }
    return parameters_from_json(given)


def _models(work: Path) -> dict[str, Path]:
    return {"demo": SHIPPED_BASE, **{name: work / name for name in ("wide", "large", "internvl")}}


def _matmul_flops() -> float:
    """As the trainer's start-up probe measures it."""
    printed = _python("-m", "trainer_svc.qlora.probe")
    return float(json.loads(printed.splitlines()[-1])["matmul_flops"])


def _error(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def _python(*arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=600, check=False
    )
    if finished.returncode:
        sys.exit(f"{' '.join(arguments[:2])} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


if __name__ == "__main__":
    main()
