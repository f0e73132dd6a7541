"""CONTRIBUTING names files to touch and tests that fail: each must exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_place_that_contributors_are_sent_to_exists() -> None:
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    by_service = {"rpc/error_table.py", "rpc/peers.py", "store/census_store.py"}

    assert len(named) > 30
    assert {place for place in named - by_service if not (ROOT / place).exists()} == set()
