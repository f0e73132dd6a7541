"""`python -m scheduler_svc`: serves until SIGTERM; its other commands are for the operator."""

from __future__ import annotations

from pathlib import Path

from meshkit.lifecycle import main as run_until_stopped
from meshkit.service_command import add_make_keys, apply_migrations, read_settings, service_parser
from scheduler_svc.bootstrap import bootstrap
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.signing_keys import load_signing_keys
from scheduler_svc.store import MIGRATIONS, SCHEMA


def main() -> None:
    """Runs the command that the arguments name and exits the process."""
    parser, commands = service_parser("scheduler_svc", "The scheduler of Reeltune.")
    add_make_keys(commands)
    arguments = parser.parse_args()
    if arguments.command == "make-keys":
        load_signing_keys(Path(arguments.folder))
        return
    settings = read_settings(SchedulerSettings, "scheduler_svc")
    if arguments.command == "migrate":
        apply_migrations(settings.postgres_dsn, SCHEMA, MIGRATIONS)
    else:
        run_until_stopped("scheduler", settings, lambda runtime: bootstrap(settings, runtime))


if __name__ == "__main__":
    main()
