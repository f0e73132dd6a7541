"""The files that a mesh of containers is prepared with, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from reeltune_cli.stack.prepared import Preparation, prepare


@pytest.fixture(scope="package")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reeltune cluster prepare` makes."""
    out = tmp_path_factory.mktemp("prepared")
    prepare(Preparation(out=out, prefix="reeltune-", namespace="video"))
    return out
