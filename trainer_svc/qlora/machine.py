"""The machine itself, as the standard library knows it."""

from __future__ import annotations

import os
from pathlib import Path


def machine_memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """What processes of this machine can have together, or those of this container, whose `limit` is the lower one."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        told = limit.read_text(encoding="utf-8").strip()
    except OSError:
        return machine
    return min(machine, int(told)) if told.isdigit() else machine
