"""How a client command ends when something on the user's own machine fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from reeltune_cli.invocation import Invocation, add_command


async def _write(cli: Invocation, to: Path) -> None:
    to.mkdir(parents=True)
    cli.answer({}, "")


@pytest.mark.parametrize("options", [(), ("--output", "json")], ids=["text", "json"])
def test_a_path_that_cannot_be_written_is_told_without_a_trace(tmp_path: Path, options: tuple[str, ...]) -> None:
    app = typer.Typer()
    add_command(app, "write", _write)
    (tmp_path / "file").write_text("in the way")
    ended = CliRunner().invoke(app, [str(tmp_path / "file" / "folder"), *options])
    assert ended.exit_code == 1
    assert "Not a directory [LOCAL_FILE_ERROR]" in ended.stderr
    assert str(tmp_path / "file") in ended.stderr
    assert "Traceback" not in ended.output
    if options:
        assert json.loads(ended.stdout)["error"]["reason"] == "LOCAL_FILE_ERROR"
