"""Failpoints do nothing until they are armed, and then what they were told, once."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from meshkit.failpoints import VARIABLE, FailpointError, failpoint, failpoints_from_text

PROGRAM = """
import asyncio
from meshkit.failpoints import failpoint

async def main():
    for visit in range(1, 5):
        print("visit", visit, flush=True)
        await failpoint("a.place")

asyncio.run(main())
"""


def run(armed: str | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if armed is not None:
        environment[VARIABLE] = armed
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_nothing_is_armed_in_this_process_and_a_place_is_an_empty_call() -> None:
    assert failpoint is failpoints_from_text("")
    assert inspect.getsource(failpoint).splitlines()[0] == "async def _nothing(name: str) -> None:"
    assert len(inspect.getsource(failpoint).splitlines()) == 2, "its name and its docstring"


@pytest.mark.parametrize("armed", [None, "", "another.place=kill", "a.place=kill:9"])
def test_without_its_name_and_visit_nothing_happens(armed: str | None) -> None:
    process = run(armed)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert output.count("visit") == 4


def test_kill_happens_at_its_visit_and_says_so() -> None:
    process = run("a.place=kill:3")
    output, errors = process.communicate(timeout=60)

    assert process.returncode == -signal.SIGKILL
    assert output.split("\n")[-2] == "visit 3"
    assert errors == "failpoint a.place: kill\n"


def test_stop_waits_for_somebody_else() -> None:
    process = run("a.place=stop:2")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)

    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert output.count("visit") == 4


async def test_an_error_is_raised_once() -> None:
    place = failpoints_from_text("a.place=error:2")
    await place("a.place")
    with pytest.raises(FailpointError, match=r"a\.place"):
        await place("a.place")
    await place("a.place")


async def test_a_delay_lets_others_work() -> None:
    place = failpoints_from_text("a.place=delay:0.5")
    began = time.monotonic()
    await asyncio.gather(*(place("a.place") for _ in range(5)))

    assert 0.5 <= time.monotonic() - began < 2.4, "and not one after the other"


async def test_a_disconnect_cuts_what_was_accepted_and_nothing_else() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    # The other process's server stands for a database that this process talks to.
    held = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()[:2]
        reader, writer = await asyncio.open_connection(*address)
        await failpoints_from_text("a.place=disconnect")("a.place")

        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        again, other = await asyncio.open_connection(*address)
        other.close()
        assert not again.at_eof(), "it still takes connections"
    assert held.fileno() > 0
    held.close()


@pytest.mark.parametrize("text", ["a.place", "a.place=", "a.place=explode", "=kill", "a.place=kill:x", "a.place=delay"])
def test_what_cannot_be_understood_stops_the_process(text: str) -> None:
    with pytest.raises(ValueError, match=VARIABLE):
        failpoints_from_text(text)
