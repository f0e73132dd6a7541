"""Answers as they come: one as running text, two side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from reeltune.trainer.v1 import inference_service_pb2 as pb
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reeltune_cli.invocation import printable
from reeltune_cli.tables import enum_word

Who: TypeAlias = "pb.Responder.ValueType"

BOTH: tuple[Who, ...] = (pb.RESPONDER_BASE, pb.RESPONDER_TUNED)


class AnswersView:
    """Shows what is said. Where nobody watches (a pipe, a file) two answers come one under the other at the end."""

    def __init__(self, console: Console, responders: Sequence[Who]) -> None:
        self._console = console
        self._texts = dict.fromkeys(responders, "")
        self._live: Live | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows what is added inside the block; what was said stays on the screen, also when the block fails."""
        if not self._is_side_by_side or not self._console.is_terminal:
            try:
                yield
            finally:
                self._finish()
            return
        with Live(self._table(), console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._console.print(self._table())

    def add(self, who: Who, text: str) -> None:
        """Adds the next piece of an answer."""
        self._texts[who] += printable(text)
        if self._live is not None:
            self._live.update(self._table())
        elif not self._is_side_by_side:
            self._console.print(Text(printable(text)), end="", soft_wrap=True)
            self._console.file.flush()

    @property
    def _is_side_by_side(self) -> bool:
        return len(self._texts) > 1

    def _finish(self) -> None:
        if not self._is_side_by_side:
            self._console.print()
            return
        for who, text in self._texts.items():
            self._console.print(Text(f"{_name(who)}: {text}"), soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
        for who in self._texts:
            table.add_column(_name(who), ratio=1, overflow="fold")
        table.add_row(*(Text(text) for text in self._texts.values()))
        return table


def _name(who: Who) -> str:
    return enum_word(pb.Responder, who, "RESPONDER_")
