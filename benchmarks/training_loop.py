"""`training_loop`: samples per second of our trainer against a plain transformers.Trainer + peft + bitsandbytes script.

Same tiny Qwen3-VL-architecture model (random weights: only speed counts), same H.264 clips, NF4, LoRA rank 16 on the
language model, batch 4, 8 frames, no gradient checkpointing, one pass over the clips, so that no cache can help; and
nothing of the encoder is kept for another pass (`encoder_cache` tells what that costs and gains). The two run in turn,
several times; the ratio is the median of the pairs. The plain script runs with one loader process, its best setting on
two cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import Result, print_result

PAIRS = 3
STEPS = 60
BATCH_SIZE = 4
FRAMES = 8
WORKERS = 1
WARM_UP = 10
"""Steps that are not measured."""
GOAL = 1.0
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        model, dataset = work / "model", work / "dataset"
        make_material(model, dataset)
        pairs = [(ours(model, dataset, work / f"out{number}"), plain(model, dataset)) for number in range(PAIRS)]
    ratios = [mine / theirs for mine, theirs in pairs]
    print_result(
        Result(
            name="training_loop",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "reeltune_samples_per_second": statistics.median(mine for mine, _ in pairs),
                "plain_samples_per_second": statistics.median(theirs for _, theirs in pairs),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            },
        )
    )


def make_material(model: Path, dataset: Path, *, clips: int = STEPS * BATCH_SIZE, questions: int = 1) -> None:
    """The demo's model with random weights, and `questions` (1 or 2) about each of its clips."""
    _python("-m", "benchmarks.tiny_material", str(model), str(dataset), str(clips), str(questions))


def ours(model: Path, dataset: Path, out: Path) -> float:
    """Samples per second of `python -m trainer_svc.qlora` after its first WARM_UP steps."""
    return rate_between(points_of(model, dataset, out, {"runtime.encoder_cache": "off"}), WARM_UP, STEPS)


def points_of(
    model: Path, dataset: Path, out: Path, changes: Mapping[str, object], variables: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The metrics of a run of `python -m trainer_svc.qlora`, its settings changed by `changes`; `variables`: beside
    those of its environment."""
    settings = {
        "optimization.max_steps": STEPS,
        "optimization.batch_size": BATCH_SIZE,
        "optimization.gradient_accumulation_steps": 1,
        "optimization.gradient_checkpointing": "false",
        "sampling.max_frames": FRAMES,
        "checkpoint_every_steps": 0,
        **changes,
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ("-m", "trainer_svc.qlora", "--model", str(model), "--dataset", str(dataset), "--out", str(out))
    _python(*command, *overrides, variables=variables)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def rate_between(points: list[dict[str, Any]], first: int, last: int) -> float:
    """Samples per second of the steps after `first`, up to `last`."""
    steps = [point["values"] for point in points if first < point["step"] <= last and "loss" in point["values"]]
    return len(steps) * BATCH_SIZE / sum(step["step_seconds"] for step in steps)


def plain(model: Path, dataset: Path) -> float:
    """Samples per second of the plain script after its first WARM_UP steps."""
    counts = [str(number) for number in (STEPS, BATCH_SIZE, FRAMES, WORKERS)]
    printed = _python("-m", "benchmarks.plain_trainer", str(model), str(dataset), *counts)
    rate: float = json.loads(printed.splitlines()[-1])["samples_per_second"]
    return rate


def _python(*arguments: str, variables: Mapping[str, str] | None = None) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | (variables or {}),
        timeout=600,
        check=False,
    )
    if finished.returncode:
        sys.exit(f"{' '.join(arguments[:2])} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


if __name__ == "__main__":
    main()
