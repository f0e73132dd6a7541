"""`python -m auth_svc`: serves; its other commands are for the operator."""

from __future__ import annotations

import asyncio
from pathlib import Path

from auth_svc.bootstrap import bootstrap
from auth_svc.operator_commands import OperatorError, grant_admin, rotate_key
from auth_svc.settings import AuthSettings
from auth_svc.store.key_folder import KeyFolder
from auth_svc.store.queries import MIGRATIONS, SCHEMA
from meshkit.lifecycle import main as run_until_stopped
from meshkit.service_command import add_make_keys, apply_migrations, print_line, read_settings, service_parser


def main() -> None:
    """Runs the command that the arguments name and exits the process."""
    parser, commands = service_parser("auth_svc", "The auth service of Reeltune.")
    add_make_keys(commands)
    grant = commands.add_parser("grant-admin", help="make a user an admin")
    grant.add_argument("username", metavar="USERNAME")
    rotate = commands.add_parser("rotate-key", help="make a new signing key; running services take it up by themselves")
    rotate.add_argument("--force", action="store_true", help="even if the last rotation is not over")
    arguments = parser.parse_args()
    if arguments.command == "make-keys":
        make_keys(Path(arguments.folder))
        return
    settings = read_settings(AuthSettings, "auth_svc")
    try:
        if arguments.command == "grant-admin":
            print_line(asyncio.run(grant_admin(settings, arguments.username)))
        elif arguments.command == "rotate-key":
            print_line(rotate_key(settings, force=arguments.force))
        elif arguments.command == "migrate":
            apply_migrations(settings.postgres_dsn, SCHEMA, MIGRATIONS)
        else:
            run_until_stopped("auth", settings, lambda runtime: bootstrap(settings, runtime))
    except OperatorError as error:
        raise SystemExit(f"auth_svc: {error}") from error


def make_keys(path: Path) -> None:
    """Makes what is missing of a signing key and the key of refresh tokens."""
    folder = KeyFolder(path)
    folder.ensure_keys()
    folder.refresh_key()


if __name__ == "__main__":
    main()
