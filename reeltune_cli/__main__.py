"""`python -m reeltune_cli`, and the entry point of `reeltune`."""

from __future__ import annotations

from reeltune_cli.app import build_app


def main() -> None:
    """Runs the command line and exits the process: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    build_app()(prog_name="reeltune")


if __name__ == "__main__":
    main()
