"""`encoder_cache`: samples per second of the second epoch, the encoder's outputs being kept, against a plain script.

Same model, clips and settings as in `training_loop`, the baseline likewise: plain transformers.Trainer + peft +
bitsandbytes, for which every epoch is as the first. The ratio is the median of the pairs. Told beside it: how fast the
first epoch is, which computes the outputs and keeps them, against the first epoch of a run that keeps none; and a run
in a new process, which finds everything kept.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Result, print_result
from benchmarks.training_loop import BATCH_SIZE, STEPS, WARM_UP, make_material, plain, points_of, rate_between

PAIRS = 3
EPOCHS = 2
GOAL = 1.4


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        model, dataset = work / "model", work / "dataset"
        make_material(model, dataset)
        runs = []
        for number in range(PAIRS):
            out = work / f"kept{number}"
            kept = points_of(model, dataset, out, {"optimization.max_steps": STEPS * EPOCHS})
            without = points_of(model, dataset, work / f"none{number}", {"runtime.encoder_cache": "off"})
            runs.append((kept, without, plain(model, dataset)))
        (work / "again").mkdir()
        (work / "kept0" / "encoder_outputs").rename(work / "again" / "encoder_outputs")
        again = points_of(model, dataset, work / "again", {})
    later = [rate_between(kept, STEPS, STEPS * EPOCHS) for kept, _, _ in runs]
    ratios = [rate / theirs for rate, (_, _, theirs) in zip(later, runs, strict=True)]
    filling = [rate_between(kept, WARM_UP, STEPS) / rate_between(none, WARM_UP, STEPS) for kept, none, _ in runs]
    print_result(
        Result(
            name="encoder_cache",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "later_epochs_samples_per_second": statistics.median(later),
                "plain_samples_per_second": statistics.median(theirs for _, _, theirs in runs),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "first_epoch_keeping_to_not_keeping": statistics.median(filling),
                "first_epoch_of_a_later_run_samples_per_second": rate_between(again, WARM_UP, STEPS),
                "samples_a_step": float(BATCH_SIZE),
            },
        )
    )


if __name__ == "__main__":
    main()
