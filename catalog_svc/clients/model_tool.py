"""The model tool: a program with the training libraries, which this service starts and never imports.

Its children live in the sandbox of `meshkit.sandbox`, are kept warm for a while, and no answer of theirs is trusted.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catalog_svc.clients.model_tool_answers import forward_from_json, preview_from_json
from catalog_svc.domain.errors import PreviewFailed, PreviewsBusy, PreviewUnavailable
from catalog_svc.domain.preview import PreviewSettings, SamplePreview
from catalog_svc.domain.sample import Sample, messages_to_json
from meshkit.sandbox.lines import BadAnswer
from meshkit.sandbox.pool import ChildPool
from meshkit.sandbox.process import ChildDied, ChildTooSlow

_MEMORY_VARIABLE = "REELTUNE_MODEL_TOOL_MEMORY_BYTES"
# Importing the training libraries takes seconds on an idle machine.
_START_SECONDS = 120.0
_MAX_LINE_BYTES = 8 << 20
_WAITING_PER_CHILD = 8
_LOOK_SECONDS = 10.0
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, slots=True)
class ModelToolLimits:
    """What the tool may take."""

    processes: int = 1
    preview_seconds: float = 30.0
    """Longest time for one preview, once a child is ready."""
    forward_seconds: float = 120.0
    memory_bytes: int = 8 << 30
    """That one child may map; the libraries alone map four GiB."""
    idle_seconds: float = 300.0
    """How long a child is kept that has nothing to do."""


class ModelTool:
    """Asks the tool; an empty command means that there is none."""

    def __init__(self, command: str, limits: ModelToolLimits) -> None:
        self._limits = limits
        self._waiting = 0
        self._used_at = 0.0
        self._pool: ChildPool | None = None
        if command.strip():
            self._pool = ChildPool(
                limits.processes,
                shlex.split(command),
                deadline_seconds=limits.preview_seconds,
                environment={**_OFFLINE, _MEMORY_VARIABLE: str(limits.memory_bytes)},
                start_seconds=_START_SECONDS,
                max_line_bytes=_MAX_LINE_BYTES,
            )

    @property
    def is_available(self) -> bool:
        return self._pool is not None

    async def close(self) -> None:
        """Kills the children that have nothing to do."""
        if self._pool is not None:
            await self._pool.close()

    def child_pids(self) -> list[int]:
        """Returns the process ids of the children."""
        return [] if self._pool is None else self._pool.child_pids()

    async def dismiss_idle(self) -> None:
        """Kills, for ever, children that have had nothing to do for a while: they hold much memory."""
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._limits.idle_seconds))
            if not self._waiting and asyncio.get_running_loop().time() - self._used_at > self._limits.idle_seconds:
                await self.close()

    async def preview(
        self, folders: ToolFolders, sample: Sample, paths: Sequence[str], settings: PreviewSettings
    ) -> SamplePreview:
        """Returns what training would feed the model.

        Args:
            folders: Where the model's files (weights are not needed) and the clips are.
            sample: The sample, with clips named as they are in `folders.dataset`.
            paths: The paths of its clips in the dataset, in order.
            settings: What is asked for.

        Raises:
            PreviewUnavailable, PreviewsBusy: it is not even tried.
            InvalidField, PreviewRefused: training would not take these settings, the sample or the model.
            PreviewFailed: making it took too much time or memory, or broke the tool down.
        """
        request = {
            "kind": "preview",
            "model": folders.model,
            "dataset": folders.dataset,
            "sample": {
                "sample_id": sample.sample_id,
                "split": sample.split,
                "messages": messages_to_json(sample.messages),
            },
            "sampling": settings.sampling(),
            "max_frames": settings.shown_frames,
        }
        names = {folders.model: "the model", f"{folders.dataset}/clips/": ""}
        names |= {video.path: path for video, path in zip(sample.videos(), paths, strict=True)}
        try:
            return preview_from_json(await self._ask_twice(request), paths, names)
        except ChildTooSlow as error:
            raise PreviewFailed("TIMEOUT", f"it took more than {self._limits.preview_seconds:g} s") from error
        except ChildDied as error:
            raise PreviewFailed("DIED", "the tool died over it, twice") from error
        except BadAnswer as error:
            raise PreviewFailed("BAD_ANSWER", "the tool talks nonsense") from error

    async def forward(self, model_folder: str) -> tuple[str, str, str]:
        """Tries one forward step of a whole model; returns reason, message and remedy, all empty if it is sound.

        Raises:
            ChildTooSlow, ChildDied, BadAnswer: it gave no answer.
        """
        request = {"kind": "forward", "model": model_folder}
        assert self._pool is not None
        self._waiting += 1
        try:
            answer = await self._pool.ask(request, self._limits.forward_seconds)
        finally:
            self._end_waiting()
        return forward_from_json(answer, {model_folder: "the model"})

    async def _ask_twice(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._ask({**request, "decoder": "auto"}, self._limits.preview_seconds)
        except ChildDied:
            # As in training: a clip that breaks the first decoder down is tried once with the other.
            return await self._ask({**request, "decoder": "pyav"}, self._limits.preview_seconds)

    async def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self._pool is None:
            raise PreviewUnavailable
        if self._waiting >= self._pool.size * _WAITING_PER_CHILD:
            raise PreviewsBusy
        self._waiting += 1
        try:
            return await self._pool.ask_once(request, seconds)
        finally:
            self._end_waiting()

    def _end_waiting(self) -> None:
        self._waiting -= 1
        self._used_at = asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class ToolFolders:
    """Where the tool finds what it is asked about."""

    model: str
    dataset: str
    """Holds the clips in `clips/`."""
