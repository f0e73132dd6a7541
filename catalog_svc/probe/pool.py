"""A few long-lived probe children: a bad file costs its own child and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from catalog_svc.domain.clip import ClipFault, FaultyClip, ProbeOutcome
from catalog_svc.probe.child_process import CHILD_COMMAND, ChildDied, ChildTooSlow, ProbeChild
from catalog_svc.probe.protocol import BadAnswer, key_paths_from_json, outcome_from_json

REQUESTS_PER_CHILD = 500
"""After so many files a child makes room for a fresh one: whatever leaked goes with it."""


class ProbePool:
    """Runs probes in at most `size` children at once.

    Args:
        size: Most children at once.
        deadline_seconds: Wall-clock time for one file; then its child gets SIGKILL.
        max_pixels: Most pixels (width times height) a frame may have.
        command: What starts a child; the parent's process id is added.
    """

    def __init__(
        self,
        size: int,
        *,
        deadline_seconds: float = 30.0,
        max_pixels: int = 40_000_000,
        command: Sequence[str] = CHILD_COMMAND,
    ) -> None:
        self.size = size
        self._deadline = deadline_seconds
        self._max_pixels = max_pixels
        self._command = tuple(command)
        self._slots = asyncio.Semaphore(size)
        self._idle: list[ProbeChild] = []
        self._busy: set[ProbeChild] = set()

    async def close(self) -> None:
        """Kills the children that have nothing to do: all of them, once nobody waits for a probe."""
        while self._idle:
            await self._idle.pop().kill()

    def child_pids(self) -> list[int]:
        """Returns the process ids of the children."""
        return [child.pid for child in (*self._idle, *self._busy)]

    async def probe_clip(self, path: Path) -> ProbeOutcome:
        """Decodes a file in full; every trouble with it is an outcome, none an exception."""
        request = {"kind": "clip", "path": str(path), "max_pixels": self._max_pixels}
        try:
            return outcome_from_json(await self._ask(request))
        except ChildTooSlow:
            return FaultyClip(ClipFault.TIMEOUT, f"decoding it took more than {self._deadline:g} s and was stopped")
        except (ChildDied, BadAnswer):
            return FaultyClip(ClipFault.UNDECODABLE, "the decoder broke down over it, twice")

    async def remote_code_places(self, path: Path) -> list[str] | None:
        """Returns where a JSON file asks for code to be run; None if it is not JSON, or more than a child can read."""
        try:
            return key_paths_from_json(await self._ask({"kind": "json", "path": str(path)}))
        except (ChildTooSlow, ChildDied, BadAnswer):
            return None

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._ask_once(request)
        except ChildDied as died:
            # Perhaps it was not the file: someone, or the kernel for want of memory, may have killed the child.
            structlog.get_logger().warning("probe.child_died", cause=str(died))
            return await self._ask_once(request)

    async def _ask_once(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._slots:
            child = await self._take()
            self._busy.add(child)
            try:
                answer = await child.ask(request, self._deadline)
            finally:
                self._busy.discard(child)
            if child.requests < REQUESTS_PER_CHILD:
                self._idle.append(child)
            else:
                await child.kill()
            return answer

    async def _take(self) -> ProbeChild:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
        return await ProbeChild.start(self._command)
