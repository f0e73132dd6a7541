"""Real curl, as the README tells people to use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e.running_mesh import RunningMesh

_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Curl:
    """Calls one mesh over HTTP/JSON, as one user."""

    mesh: RunningMesh
    token: str = ""

    async def get(self, path: str) -> tuple[int, Any]:
        """Returns status and JSON."""
        return await self.call(path)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Returns status and JSON."""
        return await self.call(path, "-d", json.dumps(body))

    async def delete(self, path: str) -> tuple[int, Any]:
        """Returns status and JSON."""
        return await self.call(path, "-X", "DELETE")

    async def call(self, path: str, *arguments: str) -> tuple[int, Any]:
        """Returns status and JSON of one call with curl's own arguments."""
        status, body = await self.raw(f"{self.mesh.url}{path}", *self._authorization(), *arguments)
        return status, json.loads(body)

    async def raw(self, url: str, *arguments: str) -> tuple[int, bytes]:
        """Returns status and bytes from a whole URL, without a token."""
        process = await self._start("-w", "\n%{http_code}", *arguments, url)
        said, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
        body, _, status = said.rpartition(b"\n")
        return int(status), body

    async def stream(self, path: str, body: Mapping[str, Any] | None = None) -> AsyncIterator[Any]:
        """Yields the messages of a streaming answer as they arrive, one JSON object a line."""
        posted = [] if body is None else ["-d", json.dumps(body)]
        process = await self._start("--no-buffer", *self._authorization(), *posted, f"{self.mesh.url}{path}")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_SECONDS):
                async for line in process.stdout:
                    yield json.loads(line)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _authorization(self) -> list[str]:
        return ["-H", f"authorization: Bearer {self.token}"] if self.token else []

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        common = ("-sS", "--http1.1", "--max-time", str(_SECONDS), "--cacert", str(self.mesh.ca))
        return await asyncio.create_subprocess_exec("curl", *common, *arguments, stdout=asyncio.subprocess.PIPE)
