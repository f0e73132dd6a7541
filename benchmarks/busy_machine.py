"""`busy_machine`: steps per second of our training while every core has other work, against the same as OpenMP waits by
default.

Beside the training one process per core computes all the time, as the machine's other services may. Ours lets threads
that wait for one another soon sleep (`GOMP_SPINCOUNT=3000`, set for every child); the baseline is the same command with
the spinning that libgomp's manual gives as its default (`GOMP_SPINCOUNT=300000`). The median of the steps after the
first two.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Result, print_result
from benchmarks.training_loop import BATCH_SIZE, make_material, points_of

STEPS = 8
WARM_UP = 2
GOAL = 1.2
SPINNING = {"GOMP_SPINCOUNT": "300000"}


def main() -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        model, dataset = Path(folder, "model"), Path(folder, "dataset")
        make_material(model, dataset, clips=STEPS * BATCH_SIZE)
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(other_work())
        ours = step_seconds(model, dataset, Path(folder, "sleeping"), {})
        default = step_seconds(model, dataset, Path(folder, "spinning"), SPINNING)
    print_result(
        Result(
            name="busy_machine",
            ratio=default / ours,
            goal=GOAL,
            higher_is_better=True,
            figures={"step_seconds": ours, "default_step_seconds": default},
        )
    )


@contextmanager
def other_work() -> Iterator[None]:
    """A process that computes until the end."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def step_seconds(model: Path, dataset: Path, out: Path, variables: Mapping[str, str]) -> float:
    """The median step of our training, with further environment `variables`."""
    points = points_of(model, dataset, out, {"optimization.max_steps": STEPS}, variables)
    return statistics.median(
        [point["values"]["step_seconds"] for point in points if "loss" in point["values"]][WARM_UP:]
    )


if __name__ == "__main__":
    main()
