"""`python -m trainer_svc.qlora.model_tool PARENT_PID`: shows what training would feed a model, and tries its weights.

A child of the catalog, which never imports this package. It answers one JSON object a line (`meshkit.sandbox`),
confined like every child that reads files from strangers, offline, without credentials. The variable
REELTUNE_MODEL_TOOL_MEMORY_BYTES bounds the memory it may map. `tool_answers` says what it is asked and what it answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from meshkit.sandbox.child import serve
from trainer_svc.qlora.quick_imports import quick_imports
from trainer_svc.qlora.quiet import quiet_libraries

MEMORY_VARIABLE = "REELTUNE_MODEL_TOOL_MEMORY_BYTES"
MEMORY_BYTES = 8 << 30


def main() -> None:
    """Imports what it needs, gives up the rest, and answers."""
    serve(
        int(sys.argv[1]),
        _prepare,
        address_space_bytes=int(os.environ.get(MEMORY_VARIABLE) or MEMORY_BYTES),
        may_start_threads=True,  # decord decodes in a thread of its own
    )


def _prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    # Before transformers is imported; and all of it before the process is confined.
    quiet_libraries(threads=1)
    with quick_imports():
        from trainer_svc.qlora.quiet import quiet_transformers
        from trainer_svc.qlora.tool_answers import ToolAnswers

    quiet_transformers()
    return ToolAnswers().answer


if __name__ == "__main__":
    main()
