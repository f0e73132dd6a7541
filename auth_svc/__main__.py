"""`python -m auth_svc`: serves; `grant-admin USERNAME` and `rotate-key` are for the operator."""

from __future__ import annotations

import argparse
import asyncio
import sys

import pydantic

from auth_svc.bootstrap import bootstrap
from auth_svc.operator_commands import OperatorError, grant_admin, rotate_key
from auth_svc.settings import AuthSettings
from meshkit.lifecycle import main as run_until_stopped


def main() -> None:
    """Runs the command that the arguments name and exits the process."""
    arguments = _parser().parse_args()
    settings = _settings()
    try:
        if arguments.command == "grant-admin":
            print_line(asyncio.run(grant_admin(settings, arguments.username)))
        elif arguments.command == "rotate-key":
            print_line(rotate_key(settings, force=arguments.force))
        else:
            run_until_stopped("auth", settings, lambda runtime: bootstrap(settings, runtime))
    except OperatorError as error:
        raise SystemExit(f"auth_svc: {error}") from error


def print_line(text: str) -> None:
    """Tells the operator what was done."""
    sys.stdout.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m auth_svc", description="The auth service of Reeltune.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve until SIGTERM (the default)")
    grant = commands.add_parser("grant-admin", help="make a user an admin")
    grant.add_argument("username", metavar="USERNAME")
    rotate = commands.add_parser("rotate-key", help="make a new signing key; running services take it up by themselves")
    rotate.add_argument("--force", action="store_true", help="even if the last rotation is not over")
    return parser


def _settings() -> AuthSettings:
    try:
        return AuthSettings()  # type: ignore[call-arg]  # from the environment
    except pydantic.ValidationError as error:
        # Without the values: they may be secrets.
        wrong = [f"AUTH_{'_'.join(map(str, row['loc'])).upper()}: {row['msg']}" for row in error.errors()]
        raise SystemExit("auth_svc: set these environment variables right:\n  " + "\n  ".join(wrong)) from None


if __name__ == "__main__":
    main()
