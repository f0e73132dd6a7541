"""How the mesh keeps processes alive and stops them: with real processes that die, hang and outstay their time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from meshkit.embedded.process import StartableServer
from reeltune_cli.stack import mesh as mesh_module
from reeltune_cli.stack import parts as parts_module
from reeltune_cli.stack.mesh import Mesh, MeshFailed, Status
from reeltune_cli.stack.parts import Part


class ShellServer(StartableServer):
    """A shell script that counts as ready once it has said so in its log."""

    def __init__(self, name: str, folder: Path, script: str) -> None:
        super().__init__(name, folder / name, ready_timeout_seconds=5)
        self._script = script
        self.starts = 0

    async def start(self) -> None:
        self.starts += 1
        self.log_path.unlink(missing_ok=True)
        await self.run_until_ready(["sh", "-c", f"echo up; {self._script}"], self._has_spoken)

    async def _has_spoken(self) -> bool:
        return "up" in self.log_path.read_text()


class RefusingServer(ShellServer):
    """Ends before it is ready."""

    async def start(self) -> None:
        await self.run_until_ready(["sh", "-c", "echo cannot read its keys; exit 1"], _never)


async def _never() -> bool:
    return False


class Recorded:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Status, str]] = []

    def changed(self, name: str, status: Status, detail: str = "") -> None:
        self.changes.append((name, status, detail))

    def of(self, status: Status) -> list[str]:
        return [name for name, seen, _ in self.changes if seen is status]


def made(report: Recorded, *servers: ShellServer) -> Mesh:
    return Mesh({server.name: Part(server, "nowhere") for server in servers}, report, edge_url="", ca_file=Path())


async def test_what_dies_too_often_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "_FIRST_BACKOFF_SECONDS", 0.01)
    dying = ShellServer("auth", tmp_path, "echo out of luck; sleep 0.05; exit 3")
    steady = ShellServer("catalog", tmp_path, "exec sleep 60")
    report = Recorded()
    mesh = made(report, dying, steady)
    await asyncio.gather(dying.start(), steady.start())
    try:
        with pytest.raises(MeshFailed, match=r"auth died 5 times .* see .*auth\.log"):
            await asyncio.wait_for(mesh.keep_alive(), 60)
    finally:
        await mesh.stop()

    assert dying.starts == mesh_module.MAX_DEATHS
    assert report.of(Status.DIED) == ["auth"] * mesh_module.MAX_DEATHS
    last_words = [detail for _, status, detail in report.changes if status is Status.DIED]
    assert all("ended with code 3" in words and "out of luck" in words for words in last_words)
    assert steady.starts == 1


async def test_a_process_that_does_not_start_fails_the_start_and_the_others_are_stopped(tmp_path: Path) -> None:
    other = ShellServer("catalog", tmp_path, "exec sleep 60")
    mesh = made(Recorded(), other, RefusingServer("auth", tmp_path, "unused"))

    with pytest.raises(MeshFailed, match="cannot read its keys"):
        await asyncio.wait_for(mesh.start(), 60)
    await mesh.stop()

    assert other.pid is None


async def test_stopping_goes_in_order_and_what_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parts_module.STOP_SECONDS, "edge", 0.5)
    stubborn = ShellServer("edge", tmp_path, "trap '' TERM; sleep 60 & wait; sleep 60 & wait")
    servers = [stubborn, *(ShellServer(name, tmp_path, "exec sleep 60") for name in ("trainer", "auth", "postgres"))]
    report = Recorded()
    mesh = made(report, *servers)
    await asyncio.gather(*(server.start() for server in servers))

    began = time.monotonic()
    await mesh.stop()

    assert report.of(Status.STOPPED) == ["trainer", "edge", "auth", "postgres"]
    assert time.monotonic() - began < 30
    assert [server.pid for server in servers] == [None] * 4
    assert stubborn.returncode == -9


def test_all_stops_together_stay_below_thirty_seconds() -> None:
    longest = sum(
        max(parts_module.STOP_SECONDS.get(name, parts_module.SERVER_STOP_SECONDS) for name in group)
        for group in parts_module.STOP_ORDER
    )

    assert longest < 30
