"""The map of the training library names each of its modules once."""

from __future__ import annotations

import re
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "trainer_svc" / "qlora"


def test_the_map_names_every_module_once() -> None:
    table = (LIBRARY / "README.md").read_text(encoding="utf-8").partition("|---|---|\n")[2]
    named = re.findall(r"`(\w+)`", table)

    assert sorted(named) == sorted(path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__")
