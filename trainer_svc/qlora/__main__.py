"""`python -m trainer_svc.qlora`: QLoRA training of a local folder, with no cluster.

    python -m trainer_svc.qlora --model MODEL --dataset DATASET --out OUT --set lora.rank=8

MODEL holds a model as save_pretrained writes it (safetensors). DATASET holds rows.jsonl and clips/. The adapter is
written to OUT/adapter. The first Ctrl-C stops after the running step and keeps the adapter made so far; the same
command again goes on from the newest checkpoint.

On several devices, either with `--set runtime.devices=2`, or started by torchrun:

    torchrun --standalone --nproc-per-node 2 -m trainer_svc.qlora --model MODEL --dataset DATASET --out OUT
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from trainer_svc.qlora.child import read_spec, run_training
from trainer_svc.qlora.launched_rank import LaunchedRank
from trainer_svc.qlora.messages import StopReason
from trainer_svc.qlora.run_context import JobFolders, LocalRun
from trainer_svc.qlora.spec import SpecError, TrainingSpec


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        spec = read_spec(options.spec) if options.spec else TrainingSpec()
        spec = spec.with_overrides(options.set).validate()
        launched = LaunchedRank.found(os.environ)
        spec = launched.fit(spec) if launched else spec
    except SpecError as error:
        sys.stderr.write(f"{error.field}: {error.problem}; {error.remedy}\n")
        return 2
    if options.print_spec:
        print(json.dumps(spec.to_dict(), indent=2))
        return 0
    run = LocalRun(JobFolders(options.model, options.dataset, options.out))
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop(StopReason.DRAIN))
    signal.signal(signal.SIGINT, lambda *_: _interrupt(run))
    try:
        return run_training(run, spec, launched=launched)
    finally:
        run.close()


def _interrupt(run: LocalRun) -> None:
    run.request_stop(StopReason.USER)
    # A second Ctrl-C ends it at once.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_svc.qlora", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--dataset", type=Path, required=True, help="folder with rows.jsonl and clips/")
    parser.add_argument("--out", type=Path, required=True, help="folder for adapter, checkpoints and metrics.jsonl")
    parser.add_argument("--spec", type=Path, help="JSON file with a training specification")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="one field, e.g. lora.rank=8; repeatable"
    )
    parser.add_argument("--print-spec", action="store_true", help="print the whole specification and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
