"""Rewrites the diagram and the table in docs/job-lifecycle.md: `python tools/write_lifecycle.py`."""

from __future__ import annotations

import re
from pathlib import Path

from scheduler_svc.domain.lifecycle_text import markdown_table, mermaid_diagram

DOCUMENT = Path(__file__).parents[1] / "docs/job-lifecycle.md"


def rewritten(text: str) -> str:
    """Returns the document with both generated blocks as they should be."""
    for name, block in (("diagram", f"```mermaid\n{mermaid_diagram()}\n```"), ("table", markdown_table())):
        pattern = re.compile(rf"(<!-- generated {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, block=block: match[1] + block + match[2], text)
        if count != 1:
            raise SystemExit(f"{DOCUMENT.name} has no block between the comments of the {name}")
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), "utf-8")
