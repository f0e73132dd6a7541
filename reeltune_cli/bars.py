"""Progress bars, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from reeltune_cli.invocation import printable


class TransferBars:
    """One bar for the whole, and one for each file that moves; a `TransferProgress`."""

    def __init__(self, progress: Progress, verb: str) -> None:
        self._progress = progress
        self._verb = verb
        self._all: TaskID | None = None
        self._moving: dict[str, TaskID] = {}
        self._done = 0
        self._files = 0

    def begin(self, files: int, size_bytes: int) -> None:
        self._files = files
        self._all = self._progress.add_task(self._title(), total=max(size_bytes, 1))

    def begin_file(self, path: str, size_bytes: int) -> None:
        self._moving[path] = self._progress.add_task(f"  {printable(path)}", total=max(size_bytes, 1))

    def advance(self, path: str, size_bytes: int) -> None:
        if self._all is not None:
            self._progress.advance(self._all, size_bytes)
        if path in self._moving:
            self._progress.advance(self._moving[path], size_bytes)

    def end_file(self, path: str) -> None:
        self._done += 1
        if self._all is not None:
            self._progress.update(self._all, description=self._title())
        if path in self._moving:
            self._progress.remove_task(self._moving.pop(path))

    def _title(self) -> str:
        return f"{self._verb} {self._done}/{self._files} files"


@contextlib.contextmanager
def transfer_bars(console: Console, verb: str) -> Iterator[TransferBars]:
    """Shows the bars of a transfer inside the block."""
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with shown:
        yield TransferBars(shown, verb)


class StepBar:
    """A bar of steps with a line of text beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, note="")

    def show(self, title: str, done: float, total: float | None, note: str = "") -> None:
        """Sets everything; `total` None means that nobody knows yet."""
        self._progress.update(
            self._task, description=printable(title), completed=done, total=total or None, note=printable(note)
        )


@contextlib.contextmanager
def step_bar(console: Console) -> Iterator[StepBar]:
    """Shows a bar of steps inside the block."""
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with shown:
        yield StepBar(shown)
