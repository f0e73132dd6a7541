"""For all tests: the fixtures of meshkit (real servers, fresh databases, real channels), and how several workers share
the tests out among them."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

# Before any test imports torch: whatever else this machine does, threads that wait let others work.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

pytest_plugins = ["meshkit.testing.plugin"]

# How long an example takes says something about the machine's other work, and nothing about the rule under test.
settings.register_profile("reeltune", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("reeltune")

_LONG_FIRST = ("tests/faults/", "tests/integration/qlora/", "tests/e2e/", "tests/integration/", "tests/rpc/", "tests/")
"""The order for several workers: what is short comes last, so that they end together."""
_WHOLE_FOLDERS = ("tests/e2e/", "tests/faults/")
"""A mesh is started for all tests of such a folder: one worker runs them all."""
TOLD = "told"
"""Name of a test's property that is shown also when it passes."""


class FolderScheduling(LoadFileScheduling):  # type: ignore[misc]
    """Gives a worker whole files, or whole folders, in the order of `_LONG_FIRST`."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in _WHOLE_FOLDERS if nodeid.startswith(folder)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    """However many workers there are."""
    return FolderScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage among what importing the tests makes, neither then nor later: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Orders the tests of a worker; alone, they run in the order of their names."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next(place for place, start in enumerate(_LONG_FIRST) if item.nodeid.startswith(start))
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ends with what tests tell under `TOLD`, whichever worker ran them."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    told = [
        str(text)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, text in report.user_properties
        if name == TOLD
    ]
    if told:
        terminalreporter.section("told by tests")
        for line in told:
            terminalreporter.write_line(line)
