"""What every client command shares: which mesh, how to answer, and how to fail."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import grpc
import typer
from rich.console import Console, RenderableType

from reeltune_cli.client import Client, ClientError, FileCredentials, find_endpoint, reeltune_home
from reeltune_cli.client.errors import describe_rpc_error

P = ParamSpec("P")
_WIDE = 200


class OutputFormat(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="REELTUNE_ENDPOINT",
        help="The mesh, HOST:PORT; by default the one that `reeltune up` runs on this machine.",
        show_default=False,
        rich_help_panel="Mesh and output",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="REELTUNE_CA",
        help="The authority (PEM file) that signed the mesh's certificate.",
        show_default=False,
        rich_help_panel="Mesh and output",
    ),
]
OutputOption = Annotated[
    OutputFormat,
    typer.Option("--output", "-o", help="`json`: one JSON document on stdout.", rich_help_panel="Mesh and output"),
]


@dataclass(slots=True)
class Invocation:
    """One run of a client command."""

    endpoint: str | None
    ca: Path | None
    output: OutputFormat
    notes: Console = field(default_factory=lambda: _console(sys.stderr))
    """Progress and remarks; stderr, so that stdout holds the answer alone."""

    @property
    def is_json(self) -> bool:
        return self.output is OutputFormat.JSON

    def client(self) -> Client:
        """Returns a client of the chosen mesh, signed in as the last `login` there."""
        endpoint = find_endpoint(self.endpoint, self.ca)
        return Client(endpoint, FileCredentials(reeltune_home(), endpoint.target))

    def answer(self, document: Mapping[str, Any], text: RenderableType) -> None:
        """Gives the command's answer: the document, or the text for a person."""
        if self.is_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            return
        console = _console(sys.stdout)
        with console.capture() as captured:
            console.print(text)
        # Tables pad their cells: harmless on a screen, a nuisance in a file.
        sys.stdout.writelines(f"{line.rstrip(' ')}\n" for line in captured.get().removesuffix("\n").split("\n"))

    def note(self, text: str) -> None:
        """Says something beside the answer."""
        self.notes.print(text)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Asks before something is lost; `yes` answers in advance.

        Raises:
            typer.Exit: the answer is no.
        """
        if yes:
            return
        if self.is_json:
            raise ClientError(f"{question} needs a yes", "CONFIRMATION_NEEDED", "add --yes")
        if not typer.confirm(question, err=True):
            raise typer.Exit(1)


Command = Callable[Concatenate[Invocation, P], Awaitable[None]]


def add_command(app: typer.Typer, name: str, run: Command[P]) -> None:
    """Adds a coroutine function as a command; it gets the options of every client command as its first argument."""

    @functools.wraps(run)
    def command(*args: Any, endpoint: str | None, ca: Path | None, output: OutputFormat, **options: Any) -> None:
        invocation = Invocation(endpoint, ca, output)
        try:
            asyncio.run(_awaited(run(invocation, *args, **options)))
        except ClientError as error:
            _fail(invocation, error)
        except grpc.aio.AioRpcError as error:
            _fail(invocation, describe_rpc_error(error))
        except OSError as error:
            _fail(invocation, _of_this_machine(error))
        except typer.Abort:
            raise typer.Exit(130) from None

    signature = _with_common_options(run)
    command.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    app.command(name)(command)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _with_common_options(run: Callable[..., Any]) -> inspect.Signature:
    own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
    common = [("endpoint", EndpointOption, None), ("ca", CaOption, None), ("output", OutputOption, OutputFormat.TEXT)]
    return inspect.Signature(
        [
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
                for name, annotation, default in common
            ),
        ]
    )


def _of_this_machine(error: OSError) -> ClientError:
    """What went wrong with a file of the user's: a folder that cannot be written, a full disk."""
    where = f"{error.filename}: " if error.filename else ""
    why = error.strerror or str(error) or type(error).__name__
    return ClientError(f"{where}{why}", "LOCAL_FILE_ERROR", "check the path, its permissions and the space left")


def _fail(invocation: Invocation, error: ClientError) -> None:
    """Tells of a failure: one line, the fields that are wrong, and the next step. Then exits with 1."""
    if invocation.is_json:
        sys.stdout.write(json.dumps(error.to_document(), indent=2, ensure_ascii=False) + "\n")
    invocation.note(f"reeltune: {printable(error.message)} [{error.reason}]")
    for row in error.field_violations:
        if row.description in error.message:
            continue  # a single violation is the message
        invocation.note(f"  {printable(row.field)}: {printable(row.description)}")
    if error.next_step:
        invocation.note(f"  next: {printable(error.next_step)}")
    raise typer.Exit(1)


def printable(text: str) -> str:
    """Returns the text without characters that steer a terminal: names come from other people."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _console(stream: Any) -> Console:
    # Without markup: a name with brackets in it is a name. Wide where nobody looks, so that no line is broken.
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=None if stream.isatty() else _WIDE)
