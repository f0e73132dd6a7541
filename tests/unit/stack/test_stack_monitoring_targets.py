"""Where metrics are is told to whoever watches, and no condition of the mesh's life."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from reeltune_cli.stack import up


def test_a_full_disk_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(plan: object, parts: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(up, "write_metrics_targets", full)
    told = io.StringIO()
    plan = SimpleNamespace(folder=SimpleNamespace(metrics_targets=Path("/data/targets.json")))
    up.tell_monitoring(cast(Any, plan), {}, Console(file=told, width=200))
    assert (
        told.getvalue() == "Prometheus does not learn where metrics are: /data/targets.json: No space left on device\n"
    )
