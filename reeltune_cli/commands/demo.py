"""`reeltune demo`: the main job for real, on a mesh of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(help="Where clips, logs and adapter go; by default $REELTUNE_HOME/demo.", show_default=False),
    ] = None,
) -> None:
    """Train a tiny model on generated clips through a whole mesh, and check that the adapter learned what they show."""
    try:
        from reeltune_cli.client.endpoint import reeltune_home
        from reeltune_cli.demo.run import run_demo
    except ModuleNotFoundError as error:
        text = f"{error.name} is missing; this command needs the servers too: pip install 'reeltune[local]'"
        Console(stderr=True).print(Text.assemble(("reeltune: ", "bold red"), text), soft_wrap=True)
        raise typer.Exit(1) from error
    raise typer.Exit(run_demo((folder or reeltune_home() / "demo").expanduser().resolve(), Console()))
