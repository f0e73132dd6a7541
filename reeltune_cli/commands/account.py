"""`reeltune signup|login|logout|whoami`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from reeltune.auth.v1 import user_pb2, user_service_pb2

from reeltune_cli.client import ClientError
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import enum_word, facts, local_time, to_document

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin: for scripts; it never is an argument.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    add_command(app, "signup", signup)
    add_command(app, "login", login)
    add_command(app, "logout", logout)
    add_command(app, "whoami", whoami)


async def signup(
    cli: Invocation,
    username: Annotated[str | None, typer.Argument(help="The name to sign in with.", show_default=False)] = None,
    email: Annotated[str | None, typer.Option(help="An e-mail address.", show_default=False)] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """Make a user and sign in."""
    username = username or _ask("Username")
    email = email or _ask("E-mail")
    password = _password(password_stdin, confirm=True)
    async with cli.client() as client:
        user = await client.session.sign_up(username, email, password)
        text = f"signed up and signed in as {user.username} at {client.endpoint.target}"
        cli.answer({"user": to_document(user)}, text)


async def login(
    cli: Invocation,
    username: Annotated[str | None, typer.Argument(help="Username or e-mail address.", show_default=False)] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """Sign in."""
    username = username or _ask("Username")
    password = _password(password_stdin, confirm=False)
    async with cli.client() as client:
        user = await client.session.log_in(username, password)
        cli.answer({"user": to_document(user)}, f"signed in as {user.username} at {client.endpoint.target}")


async def logout(cli: Invocation) -> None:
    """Sign out and forget the session."""
    async with cli.client() as client:
        username = await client.session.log_out()
        text = f"signed out {username}" if username else "nobody was signed in"
        cli.answer({"username": username}, text)


async def whoami(cli: Invocation) -> None:
    """Show the signed-in user."""
    async with cli.client() as client:
        user = (await client.users.GetMe(user_service_pb2.GetMeRequest())).user
        shown = facts(
            [
                ("username", user.username),
                ("e-mail", user.email),
                ("id", user.id),
                ("roles", ", ".join(enum_word(user_pb2.Role, role, "ROLE_") for role in user.roles)),
                ("since", local_time(user.create_time)),
                ("mesh", client.endpoint.target),
            ]
        )
        cli.answer({"user": to_document(user)}, shown)


def _ask(what: str) -> str:
    answer: str = typer.prompt(what, err=True)
    return answer.strip()


def _password(from_stdin: bool, *, confirm: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise ClientError("stdin holds no password", "PASSWORD_MISSING", "send it: … --password-stdin < FILE")
        return password
    # Without a terminal there is nothing to hide, and Python would warn that it cannot.
    is_hidden = sys.stdin.isatty()
    asked: str = typer.prompt("Password", hide_input=is_hidden, confirmation_prompt=confirm, err=True)
    return asked
