"""The list of commands."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from reeltune_cli.commands import (
    account,
    ask,
    cluster,
    dataset,
    demo,
    model,
    quota,
    stack,
    storage,
    train,
    usage,
    worker,
)


def build_app() -> typer.Typer:
    """Returns the command line."""
    app = typer.Typer(
        help="Fine-tune video-text models with QLoRA, on your own machines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        callback=_options,
        invoke_without_command=False,
    )
    stack.register(app)
    cluster.register(app)
    demo.register(app)
    account.register(app)
    dataset.register(app)
    model.register(app)
    train.register(app)
    ask.register(app)
    quota.register(app)
    usage.register(app)
    storage.register(app)
    worker.register(app)
    return app


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda asked: _print_version(asked), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"reeltune {version('reeltune')}")
        raise typer.Exit
