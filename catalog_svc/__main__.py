"""`python -m catalog_svc`: serves until SIGTERM."""

from __future__ import annotations

import pydantic

from catalog_svc.bootstrap import bootstrap
from catalog_svc.settings import CatalogSettings
from meshkit.lifecycle import main as run_until_stopped


def main() -> None:
    """Runs the service and exits the process."""
    settings = _settings()
    run_until_stopped("catalog", settings, lambda runtime: bootstrap(settings, runtime), has_children=True)


def _settings() -> CatalogSettings:
    try:
        return CatalogSettings()  # type: ignore[call-arg]  # from the environment
    except pydantic.ValidationError as error:
        # Without the values: they may be secrets.
        wrong = [f"CATALOG_{'_'.join(map(str, row['loc'])).upper()}: {row['msg']}" for row in error.errors()]
        raise SystemExit("catalog_svc: set these environment variables right:\n  " + "\n  ".join(wrong)) from None


if __name__ == "__main__":
    main()
