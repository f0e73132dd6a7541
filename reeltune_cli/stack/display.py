"""What `reeltune up` shows: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reeltune_cli.stack.mesh import Status

_STYLES = {
    Status.WAITING: "dim",
    Status.STARTING: "yellow",
    Status.READY: "green",
    Status.DIED: "bold red",
    Status.RESTARTING: "yellow",
    Status.STOPPING: "yellow",
    Status.STOPPED: "dim",
}


class LineReport:
    """One line for each change; for logs, and for what happens after the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def changed(self, name: str, status: Status, detail: str = "") -> None:
        if status is Status.WAITING:
            return
        since = f"{time.monotonic() - self._started:6.1f} s"
        line = Text.assemble((since, "dim"), f"  {name:<10} ", (f"{status.value:<11}", _STYLES[status]), detail)
        self._console.print(line, highlight=False, soft_wrap=True)


class StartReport:
    """A live list of the processes while they start; after `finish` it goes on as lines."""

    def __init__(self, console: Console, names: Iterable[str]) -> None:
        self._rows = dict.fromkeys(names, (Status.WAITING, ""))
        self._lines = LineReport(console)
        self._live = Live(self._table(), console=console, refresh_per_second=8) if console.is_terminal else None

    def begin(self) -> None:
        """Shows the list."""
        if self._live:
            self._live.start()

    def finish(self) -> None:
        """Leaves the list as it is."""
        if self._live:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def changed(self, name: str, status: Status, detail: str = "") -> None:
        self._rows[name] = (status, detail)
        if self._live:
            self._live.update(self._table())
        else:
            self._lines.changed(name, status, detail)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (status, detail) in self._rows.items():
            table.add_row(name, Text(status.value, style=_STYLES[status]), Text(detail, style="dim"))
        return table


def show_endpoints(
    console: Console, *, seconds: float, url: str, ca_file: Path, data: Path, protoset: Path, has_site: bool
) -> None:
    """Prints where the mesh is and three things to try."""
    target = url.removeprefix("https://")
    console.print(f"\n[bold green]Reeltune is up[/] after {seconds:.1f} s. Ctrl-C stops it.", highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_row("  in the browser", Text(f"{url}/app", style="bold") if has_site else "not built: make web")
    table.add_row("  gRPC, gRPC-Web, HTTP/JSON", Text(url, style="bold"))
    table.add_row("  CA certificate", str(ca_file))
    table.add_row("  data and logs", f"{data}, {data / 'logs'}")
    console.print(table, highlight=False, soft_wrap=True)
    sign_up = '{"username":"ada","email":"ada@example.com","password":"a long pass phrase"}'
    console.print("\nTry, in another terminal:", highlight=False)
    for command in (
        f"curl --cacert {ca_file} {url}/auth/signup -d '{sign_up}'",
        f"grpcurl -cacert {ca_file} -protoset {protoset} {target} reeltune.auth.v1.AuthService/GetJwks",
        "reeltune demo",
    ):
        console.print(Text(f"  {command}"), soft_wrap=True)
    console.print()
