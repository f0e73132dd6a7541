from __future__ import annotations

import json
import subprocess
import sys

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
    for command in ("", "login", "dataset", "dataset upload", "model", "train", "train start", "ask"):
        done = subprocess.run(
            [sys.executable, "-m", "reeltune_cli", *command.split(), "--help"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Usage: reeltune" in done.stdout
