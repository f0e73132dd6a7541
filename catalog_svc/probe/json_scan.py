"""Searches a JSON file from a stranger for settings that ask for code. Runs only inside a probe child."""

from __future__ import annotations

import json
from pathlib import Path

from catalog_svc.domain.model_files import remote_code_keys


def scan_json(path: Path) -> list[str] | None:
    """Returns the places that ask for code to be run, or None if the file is not JSON."""
    try:
        return remote_code_keys(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, MemoryError):
        return None
