"""What the cached outputs of an encoder depend on, by the imports of the code that makes them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from trainer_svc.qlora import encoder_cache

PACKAGE = "trainer_svc.qlora"
FOLDER = Path(encoder_cache.__file__).parent
APART = {
    "dataset_rows": "what it makes of a row is part of each key",
    "errors": "what is refused is not kept",
    "launch": "starts processes",
    "messages": "speaks to the parent",
    "model_folder": "the folder's files are part of each key",
    "model_pictures": "shows what goes into a model; for previews",
    "quiet": "silences libraries; their threads are part of each key",
    "run_context": "holds folders; the owner's is part of each key",
    "spec": "what is asked of frames and tokens is part of each key",
    "spec_options": "as spec",
}
"""Modules that the code imports, and why their change leaves the tensors alone."""


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of the package that are imported when it runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module == PACKAGE:
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom) and (child.module or "").startswith(f"{PACKAGE}."):
            yield str(child.module).removeprefix(f"{PACKAGE}.")
        yield from imported(child)


def test_whatever_the_code_imports_empties_the_cache_or_is_known_not_to_matter() -> None:
    reached: set[str] = set()
    ahead = list(encoder_cache._CODE)
    while ahead:
        name = ahead.pop()
        if name not in reached and name not in APART:
            reached.add(name)
            ahead += imported(ast.parse((FOLDER / f"{name}.py").read_text("utf-8")))
    assert sorted(encoder_cache._CODE) == sorted(reached)
