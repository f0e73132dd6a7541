"""`python -m benchmarks.measured_run MODEL DATASET OUT NAME=VALUE…`: one training in a process of its own, measured.

Prints one JSON object: the most anonymous memory that the process had, in bytes, the same before the model was loaded,
and the processor's seconds of a step after the first: on one thread, what it takes where nothing else runs.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

_EVERY_SECONDS = 0.004


class MemoryWatch:
    """The most anonymous memory that this process had so far: what a cap counts, without the pages of mapped files."""

    def __init__(self) -> None:
        self.peak = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._ends.set()
        self._thread.join()

    def look(self) -> int:
        """Returns what it has now, or had before."""
        found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            self.peak = max(self.peak, int(found[1]) << 10)
        return self.peak

    def _watch(self) -> None:
        while not self._ends.wait(_EVERY_SECONDS):
            self.look()


def main(model: Path, dataset: Path, out: Path, settings: list[str]) -> None:
    from trainer_svc.qlora.quiet import quiet_libraries

    quiet_libraries()
    from trainer_svc.qlora.messages import Progress, Starting, TrainingUp
    from trainer_svc.qlora.run_context import JobFolders, LocalRun
    from trainer_svc.qlora.spec import TrainingSpec
    from trainer_svc.qlora.trainer import train

    watch, before, times = MemoryWatch(), [0], list[float]()

    class Run(LocalRun):
        """Listens to what is told anyway."""

        def report(self, message: TrainingUp) -> None:
            if isinstance(message, Starting) and message.phase == "model":
                before[0] = watch.look()
            if isinstance(message, Progress):
                times.append(time.process_time())

    spec = TrainingSpec().with_overrides(settings)
    run = Run(JobFolders(model, dataset, out))
    train(run, spec)
    watch.stop()
    run.close()
    found = {
        "peak_bytes": watch.peak,
        "bytes_before_model": before[0],
        "step_seconds": statistics.median(later - earlier for earlier, later in pairwise(times)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
