"""Probes files from strangers in children that may be killed at any time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from catalog_svc.domain.clip import ClipFault, FaultyClip, ProbeOutcome
from catalog_svc.probe.protocol import key_paths_from_json, outcome_from_json
from meshkit.sandbox.lines import BadAnswer
from meshkit.sandbox.pool import ChildPool
from meshkit.sandbox.process import ChildDied, ChildTooSlow

CHILD_COMMAND = (sys.executable, "-m", "catalog_svc.probe.child")


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
        self._children = ChildPool(size, command, deadline_seconds=deadline_seconds)

    async def close(self) -> None:
        """Kills the children that have nothing to do: all of them, once nobody waits for a probe."""
        await self._children.close()

    def child_pids(self) -> list[int]:
        """Returns the process ids of the children."""
        return self._children.child_pids()

    async def probe_clip(self, path: Path) -> ProbeOutcome:
        """Decodes a file in full; every trouble with it is an outcome, none an exception."""
        request = {"kind": "clip", "path": str(path), "max_pixels": self._max_pixels}
        try:
            return outcome_from_json(await self._children.ask(request))
        except ChildTooSlow:
            return FaultyClip(ClipFault.TIMEOUT, f"decoding it took more than {self._deadline:g} s and was stopped")
        except (ChildDied, BadAnswer):
            return FaultyClip(ClipFault.UNDECODABLE, "the decoder broke down over it, twice")

    async def remote_code_places(self, path: Path) -> list[str] | None:
        """Returns where a JSON file asks for code to be run; None if it is not JSON, or more than a child can read."""
        try:
            return key_paths_from_json(await self._children.ask({"kind": "json", "path": str(path)}))
        except (ChildTooSlow, ChildDied, BadAnswer):
            return None
