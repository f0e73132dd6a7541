"""`python -m catalog_svc`: serves until SIGTERM; `migrate` is for the operator."""

from __future__ import annotations

from catalog_svc.bootstrap import bootstrap
from catalog_svc.settings import CatalogSettings
from catalog_svc.store.queries import MIGRATIONS, SCHEMA
from meshkit.lifecycle import main as run_until_stopped
from meshkit.service_command import apply_migrations, read_settings, service_parser


def main() -> None:
    """Runs the command that the arguments name and exits the process."""
    parser, _ = service_parser("catalog_svc", "The catalog of Reeltune.")
    command = parser.parse_args().command
    settings = read_settings(CatalogSettings, "catalog_svc")
    if command == "migrate":
        apply_migrations(settings.postgres_dsn, SCHEMA, MIGRATIONS)
    else:
        run_until_stopped("catalog", settings, lambda runtime: bootstrap(settings, runtime), has_children=True)


if __name__ == "__main__":
    main()
