"""A process can be given another clock, and only its wall clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.faults.clock_skew import clock_skew_works, skewed_environment


@pytest.mark.parametrize("seconds", [600, -600])
def test_a_child_lives_at_another_time_and_waits_as_long(seconds: float) -> None:
    if not clock_skew_works():
        pytest.skip("NOT TESTED: no libfaketime works here: pip install libfaketime, or apt-get install faketime")
    program = (
        "import threading, time; began = time.monotonic(); threading.Event().wait(0.2);"
        "print(time.time(), time.monotonic() - began)"
    )
    environment = {**os.environ, **skewed_environment(seconds)}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    wall, waited = map(float, said.stdout.split())

    assert abs(wall - time.time() - seconds) < 30
    assert 0.2 <= waited < 10
    assert skewed_environment(0) == {}
