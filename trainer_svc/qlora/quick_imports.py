"""Importing PyTorch and its kin, which is most of what a child does before it works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Looks for no garbage meanwhile: imports make millions of objects that stay, and going through them time and again
    is a sixth of the processor's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
