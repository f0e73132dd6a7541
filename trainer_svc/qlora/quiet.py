"""Keeps libraries from printing what a stranger would take for a fault. Errors are never silenced."""

from __future__ import annotations

import logging
import os
import warnings

from trainer_svc.qlora.launch import QUIET_OFFLINE, SHARING_CORES

_NOTICES = (
    r".*torch_dtype.*is deprecated.*",
    r".*MatMul8bitLt.*",
    r".*Unable to load .*processor.*",
    r".*use_cache=True.*",
    r"`is_gradient_checkpointing` is deprecated.*",  # peft 0.21 still reads it
)


def quiet_libraries(threads: int = 0) -> None:
    """Call once per process before torch, transformers or bitsandbytes is imported; `threads` 0 leaves OpenMP its own
    count."""
    os.environ.update(SHARING_CORES | os.environ | QUIET_OFFLINE)
    if threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # bitsandbytes tells CPU users about an optional hub package, which we do not want: it would go online.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for notice in _NOTICES:
        warnings.filterwarnings("ignore", message=notice)


def quiet_transformers() -> None:
    """Call once after importing transformers: no progress bars, errors only."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
