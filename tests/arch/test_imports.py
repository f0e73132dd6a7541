"""What import-linter cannot say: domains use the standard library alone, and only training loads heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("auth_svc", "catalog_svc", "scheduler_svc", "trainer_svc")
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "decord")
DOMAIN_FILES = [path for service in SERVICES for path in sorted((ROOT / service / "domain").rglob("*.py"))]
LIGHT_MODULES = (
    "meshkit.rpc.server",
    "reeltune_cli.__main__",
    "auth_svc.bootstrap",
    "catalog_svc.bootstrap",
    "scheduler_svc.bootstrap",
    "trainer_svc.bootstrap",
)


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_every_service_has_a_domain() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in DOMAIN_FILES} == set(SERVICES)


@pytest.mark.parametrize("path", DOMAIN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_domain_imports_the_standard_library_and_itself_alone(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0] + ".domain"
    foreign = {
        name
        for name in imported_modules(path)
        if name.split(".")[0] not in sys.stdlib_module_names and not (name == own or name.startswith(own + "."))
    }
    assert not foreign


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_loads_no_training_library(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == "[]"


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by their last name alone: of two that share one, neither is collected."""
    seen: dict[str, Path] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert path.name not in seen, f"{path} and {seen[path.name]}: rename one of them"
        seen[path.name] = path
