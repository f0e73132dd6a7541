"""What `python -m <name>_svc` has in common: settings from the environment, `serve`, and work for the operator."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, TypeVar

import pydantic
from pydantic_settings import SettingsError

from meshkit.postgres import migrate
from meshkit.settings import ServiceSettings

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

S = TypeVar("S", bound=ServiceSettings)


def read_settings(kind: type[S], program: str) -> S:
    """Returns the settings from the environment, or ends the process with a line for each that is wrong.

    Values are not told: they may be secrets.
    """
    prefix = kind.model_config.get("env_prefix", "")
    try:
        return kind()
    except pydantic.ValidationError as error:
        wrong = [f"{prefix}{'_'.join(map(str, row['loc'])).upper()}: {row['msg']}" for row in error.errors()]
        raise SystemExit(f"{program}: set these environment variables right:\n  " + "\n  ".join(wrong)) from None
    except SettingsError as error:
        raise SystemExit(f"{program}: {error}") from None


def service_parser(program: str, description: str) -> tuple[argparse.ArgumentParser, Commands]:
    """Returns a parser with the commands `serve` (the default) and `migrate`, and where to add further ones."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve until SIGTERM (the default)")
    commands.add_parser("migrate", help="bring the schema up to this version and exit; serving does that, too")
    return parser, commands


def add_make_keys(commands: Commands) -> None:
    """Adds the command `make-keys FOLDER`."""
    command = commands.add_parser(
        "make-keys", help="make the keys of a new mesh in a folder, for replicas that may not write there"
    )
    command.add_argument("folder", metavar="FOLDER")


def apply_migrations(dsn: pydantic.SecretStr, schema: str, package: str) -> None:
    """Applies what is new and tells it."""
    applied = asyncio.run(migrate(dsn.get_secret_value(), schema, package))
    print_line(f"schema {schema}: {', '.join(applied) or 'nothing new'}")


def print_line(text: str) -> None:
    """Tells the operator what was done."""
    sys.stdout.write(f"{text}\n")
