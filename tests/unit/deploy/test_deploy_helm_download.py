"""`helm` for the tests of the chart: taken from a wheel if that can be had, and only if it is the one that is known."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shlex
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.deploy.deployed import ROOT

PROGRAM = b"a program"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool beside an interpreter that is a script of the test's."""
    spec = importlib.util.spec_from_file_location("install_helm", ROOT / "tools" / "install_helm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    return module


def _python(folder: Path, script: str) -> None:
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)


def _zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _wheel(folder: Path) -> Path:
    layer = _zipped("helm/helm", PROGRAM)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/lib/layer.zip")
        member.size = len(layer)
        archive.addfile(member, io.BytesIO(layer))
    path = folder / "a.whl"
    path.write_bytes(_zipped("a/b.jsii.tgz", packed.getvalue()))
    return path


def test_without_the_wheel_all_else_is_installed(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _python(tmp_path, "exit 1")
    tool.main()
    told = capsys.readouterr().err
    assert "helm is not installed" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "helm").exists()


def test_only_the_known_program_is_installed(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _python(tmp_path, f'while [ "$1" != --dest ]; do shift; done; cp {shlex.quote(str(_wheel(tmp_path)))} "$2"/')
    with pytest.raises(SystemExit, match="SHA-256"):
        tool.main()
    assert not (tmp_path / "helm").exists()

    monkeypatch.setattr(tool, "_SHA256", hashlib.sha256(PROGRAM).hexdigest())
    tool.main()
    assert (tmp_path / "helm").read_bytes() == PROGRAM
