"""`python -m benchmarks [NAME ...]`: runs benchmarks one after the other and writes docs/benchmarks.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import write_page

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
NAMES = (
    "rpc_edge",
    "first_step",
    "orchestration",
    "resume_time",
    "training_loop",
    "busy_machine",
    "encoder_cache",
    "memory_4bit",
    "estimate_error",
    "decode_pool",
    "temporal_lora",
    "rank_allocation",
    "job_accept",
    "dispatch",
    "dead_trainer",
    "watch_fanout",
    "list_million",
    "preview",
    "validate",
    "register_rows",
    "large_dataset",
    "upload",
)
RECORD = FOLDER / "results.json"
TIMEOUT_SECONDS = 1200


def main(arguments: list[str]) -> int:
    """Runs the named benchmarks, or all; keeps the last result of the others on the page."""
    wanted = NAMES if arguments in ([], ["all"]) else tuple(arguments)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no benchmark named {unknown[0]!r}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    results: dict[str, dict[str, object]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in wanted:
        results[name] = run(name)
    RECORD.write_text(json.dumps({name: results[name] for name in NAMES if name in results}, indent=1) + "\n")
    write_page([results[name] for name in NAMES if name in results], PAGE)
    return 0 if all(results[name]["holds"] for name in wanted) else 1


def run(name: str) -> dict[str, object]:
    """Runs one benchmark in a process of its own and returns the JSON object of its last line."""
    print(f"== {name}", flush=True)
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    print(finished.stdout, end="", flush=True)
    result: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
