"""`python -m scheduler_svc`: serves until SIGTERM."""

from __future__ import annotations

import pydantic

from meshkit.lifecycle import main as run_until_stopped
from scheduler_svc.bootstrap import bootstrap
from scheduler_svc.settings import SchedulerSettings


def main() -> None:
    """Reads the settings and serves."""
    settings = _settings()
    run_until_stopped("scheduler", settings, lambda runtime: bootstrap(settings, runtime))


def _settings() -> SchedulerSettings:
    try:
        return SchedulerSettings()  # type: ignore[call-arg]  # from the environment
    except pydantic.ValidationError as error:
        # Without the values: they may be secrets.
        wrong = [f"SCHEDULER_{'_'.join(map(str, row['loc'])).upper()}: {row['msg']}" for row in error.errors()]
        raise SystemExit("scheduler_svc: set these environment variables right:\n  " + "\n  ".join(wrong)) from None


if __name__ == "__main__":
    main()
