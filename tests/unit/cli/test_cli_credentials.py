from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reeltune_cli.client import ClientError, Credentials, FileCredentials

ADA = Credentials("ada", "access", 10.0, "refresh", 20.0)


def test_sessions_are_kept_by_mesh_and_for_the_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    here, there = FileCredentials(home, "here:1"), FileCredentials(home, "there:1")
    assert here.load() is None
    here.save(ADA)
    there.save(Credentials("eve", "a", 1.0, "r", 2.0))
    assert FileCredentials(home, "here:1").load() == ADA
    assert stat.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    here.clear()
    assert here.load() is None
    assert there.load() is not None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"here:1": {"username": "x"}}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "credentials.json").write_text(content)
    with pytest.raises(ClientError) as caught:
        FileCredentials(tmp_path, "here:1").load()
    assert caught.value.reason == "CREDENTIALS_BROKEN"


def test_secrets_are_not_in_the_repr() -> None:
    assert "access'" not in repr(ADA)
    assert "refresh'" not in repr(ADA)


async def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path; from reeltune_cli.client import FileCredentials\n"
        "async def main():\n"
        "    async with FileCredentials(Path(sys.argv[1]), 'here:1').lock():\n"
        "        print('held', flush=True); sys.stdin.readline()\n"
        "asyncio.run(main())"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == "held\n"
        ours = asyncio.create_task(_hold(tmp_path))
        done, _ = await asyncio.wait({ours}, timeout=0.3)
        assert not done
        other.kill()
        async with asyncio.timeout(60):
            await ours
    finally:
        other.kill()
        other.communicate(timeout=60)


async def _hold(home: Path) -> None:
    async with FileCredentials(home, "here:1").lock():
        pass
