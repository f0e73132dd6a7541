"""`reeltune trainer`: a second trainer joins the mesh as it would from another machine."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

from meshkit.testing import assert_eventually
from tests.e2e.running_mesh import RunningMesh, environment, reeltune


async def test_a_trainer_joins_with_the_secret_and_leaves_on_sigterm(stack: RunningMesh, tmp_path: Path) -> None:
    user = await stack.sign_up()
    targets = [f"--{name}=127.0.0.1:{stack.port(name)}" for name in ("scheduler", "catalog", "auth")]
    secret = json.loads((stack.data / "secrets.json").read_text())["join_secret"]
    with (tmp_path / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "reeltune_cli", "trainer", *targets),
                *("--name", "from-elsewhere", "--device", "cpu", "--ca", str(stack.ca)),
            ],
            env={**environment(tmp_path), "REELTUNE_JOIN_SECRET": secret},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    async def is_listed() -> bool:
        assert process.poll() is None, (tmp_path / "trainer.log").read_text()
        answer = await stack.http.get("/v1/workers", headers=user.headers)
        return "from-elsewhere" in [worker["name"] for worker in answer.json()["workers"]]

    try:
        await assert_eventually(is_listed, timeout=90)
    finally:
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 40)
    assert code == 0
    assert secret not in (tmp_path / "trainer.log").read_text()


def test_a_trainer_needs_the_secret(tmp_path: Path) -> None:
    refused = reeltune(tmp_path, "trainer", "--scheduler=h:1", "--catalog=h:1", "--auth=h:1")

    assert refused.returncode == 2
    assert "--join-secret" in refused.stderr
