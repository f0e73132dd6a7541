"""What the tests are called is the same in every process that collects them: parallel workers run no others."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_a_second_collection_finds_the_same_tests(request: pytest.FixtureRequest) -> None:
    """A clock, a random number or the order of a set in a parameter gives each worker names of its own."""
    config = request.config
    again = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *config.args],
        cwd=config.invocation_params.dir,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    found = set(again.stdout.splitlines())
    assert [item.nodeid for item in request.session.items if item.nodeid not in found] == []
