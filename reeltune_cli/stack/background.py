"""A mesh in the background: `reeltune up` as a child process, for what needs one only for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from meshkit.embedded.process import ending_with_parent
from reeltune_cli.client.endpoint import Endpoint, find_endpoint

READY_SECONDS = 120.0
STOP_SECONDS = 45.0
_LOG_TAIL_BYTES = 2000


class MeshNotReady(Exception):
    """`reeltune up` ended or was not ready in time; the text quotes what it printed."""


@contextlib.asynccontextmanager
async def background_mesh(home: Path, *options: str) -> AsyncIterator[Endpoint]:
    """Runs `reeltune up OPTIONS` on a free port with `home` as `$REELTUNE_HOME`, and stops it when the block ends.

    Raises:
        MeshNotReady: it did not start.
    """
    log = _prepare(home)
    environment = os.environ | {"REELTUNE_HOME": str(home)}
    # Whatever becomes of us, no mesh is left behind.
    command = ending_with_parent([sys.executable, "-m", "reeltune_cli", "up", "--port", "0", *options], signal.SIGTERM)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            # A Ctrl-C on the terminal is for us; we stop the mesh when we are done with it.
            start_new_session=True,
        )
    try:
        await _until_ready(process, home, log)
        yield find_endpoint(environment={"REELTUNE_HOME": str(home)})
    finally:
        await _stop(process)


def _prepare(home: Path) -> Path:
    """Makes the folder, forgets an earlier mesh's address, and returns where the output goes."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "endpoint.json").unlink(missing_ok=True)
    return home / "up.log"


async def _until_ready(process: asyncio.subprocess.Process, home: Path, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            # `reeltune up` writes the file as the last thing, once the edge lets callers in.
            while not (home / "endpoint.json").exists():
                if process.returncode is not None:
                    raise MeshNotReady(f"`reeltune up` ended with code {process.returncode}:\n{_tail(log)}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise MeshNotReady(f"`reeltune up` was not ready after {READY_SECONDS:.0f} s:\n{_tail(log)}") from None


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
