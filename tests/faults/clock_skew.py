"""Another clock for a process, by libfaketime: wall time is ahead or behind, monotonic time is left alone."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PROBE = "import time; print(time.time()); print(time.monotonic())"


def skewed_environment(seconds: float) -> dict[str, str]:
    """Returns the variables that put a child's clock ahead by so much (behind, if negative); none for 0.

    Raises:
        FileNotFoundError: there is no libfaketime that works here; the text says what to install.
    """
    if not seconds:
        return {}
    library = _working_library()
    if library is None:
        raise FileNotFoundError("no libfaketime works here: pip install libfaketime, or apt-get install faketime")
    return _variables(library, seconds)


def clock_skew_works() -> bool:
    """Tells whether processes can be given another clock on this machine."""
    return _working_library() is not None


@functools.cache
def _working_library() -> Path | None:
    for library in _candidates():
        probe = [sys.executable, "-c", _PROBE]
        environment = {**os.environ, **_variables(library, 1000)}
        # A library of another architecture is ignored by the loader with a word on stderr: only a look at the clock
        # tells. Monotonic time, which everything that waits is measured by, must be the machine's.
        said = subprocess.run(probe, env=environment, capture_output=True, text=True, timeout=30, check=False)
        wall, monotonic = (float(line) for line in said.stdout.split()) if said.returncode == 0 else (0.0, 0.0)
        if 900 < wall - time.time() < 1100 and abs(monotonic - time.monotonic()) < 100:
            return library
    return None


def _candidates() -> Iterator[Path]:
    package = importlib.util.find_spec("libfaketime")
    for folder in package.submodule_search_locations or () if package else ():
        yield from Path(folder).glob("vendor/libfaketime/src/libfaketime.so*")
    for folder in ("/usr/lib", "/usr/local/lib"):
        yield from Path(folder).glob("**/faketime/libfaketime.so*")


def _variables(library: Path, seconds: float) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
