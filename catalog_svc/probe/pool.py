"""Probes files from strangers in children that may be killed at any time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from catalog_svc.domain.clip import ClipFault, Decoder, FaultyClip, ProbeOutcome
from catalog_svc.probe.protocol import (
    MAX_LINE_BYTES,
    key_paths_from_json,
    outcome_from_json,
    poster_from_json,
    proxy_from_json,
)
from meshkit.sandbox.lines import BadAnswer
from meshkit.sandbox.pool import ChildPool
from meshkit.sandbox.process import ChildDied, ChildTooSlow

CHILD_COMMAND = (sys.executable, "-m", "catalog_svc.probe.child")
CHILD_BYTES = 3 << 30


@dataclass(frozen=True, slots=True)
class ProbedClip:
    """What reading a file gave."""

    outcome: ProbeOutcome
    poster: bytes = b""
    """A JPEG; empty for a faulty clip."""


class ProbePool:
    """Runs probes in at most `size` children at once.

    Args:
        size: Most children at once.
        deadline_seconds: Wall-clock time for one file, both decoders together; then its child gets SIGKILL.
        max_pixels: Most pixels (width times height) a frame may have.
        child_bytes: Most address space a child may take.
        command: What starts a child; `child_bytes` and the parent's process id are added.
    """

    def __init__(
        self,
        size: int,
        *,
        deadline_seconds: float = 30.0,
        max_pixels: int = 40_000_000,
        child_bytes: int = CHILD_BYTES,
        command: Sequence[str] = CHILD_COMMAND,
    ) -> None:
        self.size = size
        self._deadline = deadline_seconds
        self._max_pixels = max_pixels
        self._children = ChildPool(
            size, (*command, str(child_bytes)), deadline_seconds=deadline_seconds, max_line_bytes=MAX_LINE_BYTES
        )

    async def close(self) -> None:
        """Kills the children that have nothing to do: all of them, once nobody waits for a probe."""
        await self._children.close()

    def child_pids(self) -> list[int]:
        """Returns the process ids of the children."""
        return self._children.child_pids()

    async def probe_clip(self, path: Path) -> ProbedClip:
        """Decodes a file in full; every trouble with it is an outcome, none an exception.

        decord, which may hang for ever or bring its process down, is tried once; PyAV has the time that is left.
        """
        request = {"kind": "clip", "path": str(path), "max_pixels": self._max_pixels, "decoder": Decoder.DECORD.value}
        try:
            answer = await self._children.ask(
                request,
                otherwise={**request, "decoder": Decoder.PYAV.value},
                # Work of any length shows signs of life: so long a silence is a hang.
                silence_seconds=self._deadline / 3,
            )
            return ProbedClip(outcome_from_json(answer), poster_from_json(answer))
        except ChildTooSlow:
            what = f"decoding it took more than {self._deadline:g} s, or came to a stand, and was stopped"
            return ProbedClip(FaultyClip(ClipFault.TIMEOUT, what))
        except (ChildDied, BadAnswer):
            return ProbedClip(FaultyClip(ClipFault.UNDECODABLE, "the decoder broke down over it, twice"))

    async def make_proxy(self, path: Path) -> bytes:
        """Returns a short copy of a sound clip that browsers play (MP4); empty if none can be made."""
        request = {"kind": "proxy", "path": str(path), "max_pixels": self._max_pixels}
        try:
            return proxy_from_json(await self._children.ask(request))
        except (ChildTooSlow, ChildDied, BadAnswer) as error:
            structlog.get_logger().warning("probe.no_proxy", cause=str(error))
            return b""

    async def remote_code_places(self, path: Path) -> list[str] | None:
        """Returns where a JSON file asks for code to be run; None if it is not JSON, or more than a child can read."""
        try:
            return key_paths_from_json(await self._children.ask({"kind": "json", "path": str(path)}))
        except (ChildTooSlow, ChildDied, BadAnswer):
            return None
