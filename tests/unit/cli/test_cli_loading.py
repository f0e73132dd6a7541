from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from reeltune_cli.app import build_app

_HEAVY = (
    "torch", "transformers", "peft", "bitsandbytes", "decord", "av", "numpy", "asyncpg", "nats", "minio", "argon2",
    "pydantic", "structlog", "protovalidate", "auth_svc", "catalog_svc", "scheduler_svc", "trainer_svc",
)  # fmt: skip


def test_importing_the_command_line_loads_no_service_and_no_training_library() -> None:
    script = "import sys, json, reeltune_cli.app as a; a.build_app(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint(_HEAVY)


def test_every_command_explains_itself() -> None:
    app = build_app()
    for command in ("", "login", "dataset", "dataset upload", "model", "train", "train start", "ask"):
        done = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="reeltune")
        assert done.exit_code == 0, done.output
        assert "Usage: reeltune" in done.stdout
    # And as a process of its own, as users start it.
    started = subprocess.run(
        [sys.executable, "-m", "reeltune_cli", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 0, started.stderr
    assert "Usage: reeltune" in started.stdout
