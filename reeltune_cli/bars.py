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
    """One bar for the whole, one for the file that moves; a `TransferProgress`."""

    def __init__(self, progress: Progress, verb: str) -> None:
        self._progress = progress
        self._verb = verb
        self._all: TaskID | None = None
        self._file = progress.add_task("", visible=False)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._shown: str | None = None
        self._done = 0
        self._files = 0

    def begin(self, files: int, size_bytes: int) -> None:
        self._files = files
        self._all = self._progress.add_task(self._title(), total=max(size_bytes, 1))

    def begin_file(self, path: str, size_bytes: int) -> None:
        self._sizes[path] = (size_bytes, 0)
        self._show(path)

    def advance(self, path: str, size_bytes: int) -> None:
        total, done = self._sizes.get(path, (size_bytes, 0))
        self._sizes[path] = (total, done + size_bytes)
        if self._all is not None:
            self._progress.advance(self._all, size_bytes)
        self._show(path)

    def end_file(self, path: str) -> None:
        self._sizes.pop(path, None)
        self._done += 1
        if self._all is not None:
            self._progress.update(self._all, description=self._title())
        if self._shown == path:
            self._shown = None
            if self._sizes:
                self._show(next(iter(self._sizes)))
            else:
                self._progress.update(self._file, visible=False)

    def _show(self, path: str) -> None:
        """Keeps to one of the files that move, so that the bar does not jump between them."""
        self._shown = self._shown if self._shown in self._sizes else path
        if path == self._shown:
            total, done = self._sizes[path]
            self._progress.update(
                self._file, visible=True, description=f"  {printable(path)}", total=max(total, 1), completed=done
            )

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
