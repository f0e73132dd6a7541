"""`reeltune up`: the whole mesh on one machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.display import StartReport, show_endpoints
from reeltune_cli.stack.edge import DESCRIPTORS_NAME
from reeltune_cli.stack.environment import StackPlan
from reeltune_cli.stack.folder import StackFolder, open_folder, write_private
from reeltune_cli.stack.mesh import Mesh, MeshFailed
from reeltune_cli.stack.metrics_targets import write_metrics_targets
from reeltune_cli.stack.options import DEFAULT_EDGE_PORT, UpOptions, reeltune_home
from reeltune_cli.stack.parts import PORT_NAMES, Part, build_parts
from reeltune_cli.stack.ports import assign_ports
from reeltune_cli.stack.secrets_file import load_or_make_secrets
from reeltune_cli.stack.site import load_site

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(options: UpOptions, console: Console) -> int:
    """Runs the mesh until a signal and returns the exit code: 0 after a stop that was asked for, 1 if it broke.

    Raises:
        FolderBusy: another `reeltune up` runs on the data folder.
        PortInUse: the edge's port is taken.
        SecretsDamaged: the secrets in the data folder cannot be read.
        FileNotFoundError: one of the servers' programs is not installed.
    """
    with open_folder(options.data) as folder:
        return asyncio.run(_run(options, folder, console))


async def _run(options: UpOptions, folder: StackFolder, console: Console) -> int:
    began = time.monotonic()
    certificates = ensure_certificates(folder.certificates)
    plan = StackPlan(
        options=options,
        folder=folder,
        secrets=load_or_make_secrets(folder.secrets),
        ports=assign_ports(folder.ports, PORT_NAMES, edge=options.port, default_edge=DEFAULT_EDGE_PORT),
        ca_file=certificates.ca,
    )
    parts = build_parts(plan, certificates)
    report = StartReport(console, parts)

    def note_ready(name: str) -> None:
        if name == "edge":
            tell_monitoring(plan, parts, console)

    mesh = Mesh(parts, report, edge_url=plan.edge_url, ca_file=certificates.ca, on_ready=note_ready)
    with _stop_requested(mesh) as stop:
        report.begin()
        try:
            is_up = await _until(mesh.start(), stop)
            report.finish()
            if is_up:
                _tell_where(plan, console, time.monotonic() - began)
                await _until(mesh.keep_alive(), stop)
            return 0
        except MeshFailed as error:
            report.finish()
            console.print(Text.assemble(("Reeltune cannot go on: ", "bold red"), str(error)), soft_wrap=True)
            return 1
        finally:
            report.finish()
            await mesh.stop()


def tell_monitoring(plan: StackPlan, parts: Mapping[str, Part], console: Console) -> None:
    """Writes where metrics are. If that fails, say of a full disk, it is told: the mesh works without."""
    try:
        write_metrics_targets(plan, parts)
    except OSError as error:
        path = plan.folder.metrics_targets
        console.print(f"Prometheus does not learn where metrics are: {path}: {error.strerror}", markup=False)


def _tell_where(plan: StackPlan, console: Console, seconds: float) -> None:
    show_endpoints(
        console,
        seconds=seconds,
        url=plan.edge_url,
        ca_file=plan.ca_file,
        data=plan.folder.root,
        protoset=plan.folder.edge / DESCRIPTORS_NAME,
        has_site=load_site() is not None,
    )
    home = reeltune_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # What the client commands read, so that nobody has to type an address or a certificate's path on this machine.
    # Written last: whoever started us in the background waits for it.
    write_private(home / "endpoint.json", {"target": plan.target("edge"), "ca_file": str(plan.ca_file)})


@contextlib.contextmanager
def _stop_requested(mesh: Mesh) -> Iterator[asyncio.Event]:
    """Gives an event that the first signal sets; the second one kills everything at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            mesh.kill()
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _until(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Runs the work until it is done (True) or a stop is asked for (False); its exceptions pass."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for unfinished in (task, stopped):
            unfinished.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
