"""The README's lines, pasted into a shell."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.running_mesh import RunningMesh, environment

ROOT = Path(__file__).parents[2]
PASTED = re.compile(r"<!-- The end-to-end tests paste these lines\. -->\n```sh\n(.*?)```", re.DOTALL)


def pasted_lines() -> list[str]:
    return PASTED.findall((ROOT / "README.md").read_text())


async def test_the_lines_of_the_readme_work_when_pasted(stack: RunningMesh, tmp_path: Path) -> None:
    blocks = pasted_lines()
    assert len(blocks) == 2
    await asyncio.to_thread(make_material, tmp_path)
    # The README speaks of the default folder and port; this mesh has others.
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".reeltune").symlink_to(stack.home)
    lines = "\n".join(blocks).replace("127.0.0.1:8443", stack.target)

    finished = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=tmp_path,
        env=environment(stack.home) | {"HOME": str(tmp_path / "home"), "PATH": path()},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said
    assert "Traceback" not in said
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert '"username":"ada"' in re.sub(r"\s", "", said)
    assert '"to":"JOB_STATE_COMPLETED"' in re.sub(r"\s", "", said), "grpcurl's watch did not reach the end"


def make_material(folder: Path) -> None:
    """A tiny model and a few clips, under the names that the README uses."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.tiny_material",
        str(folder / "my-model"),
        str(folder / "my-clips"),
        "12",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=180)
    (folder / "my-clips" / "rows.jsonl").unlink()


def path() -> str:
    """Python's own scripts first: `reeltune`, `python`, `grpcurl`."""
    assert shutil.which("curl"), "curl is needed: apt-get install curl"
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
