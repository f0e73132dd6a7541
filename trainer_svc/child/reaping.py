"""What a killed trainer left behind: children, and the folders they worked in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import psutil
import structlog

from trainer_svc.child.process import RECORD

_START_TOLERANCE_SECONDS = 1.0


def reap_children(parent_folder: Path) -> int:
    """Kills the process groups recorded in the folders under `parent_folder`, deletes those folders, and returns
    how many there were. Only for a parent folder that this process has to itself."""
    folders = [entry for entry in parent_folder.iterdir() if entry.is_dir()] if parent_folder.is_dir() else []
    for folder in folders:
        killed = _kill_recorded(folder / RECORD)
        shutil.rmtree(folder, ignore_errors=True)
        structlog.get_logger().info("stale_folder.removed", folder=folder.name, processes_killed=killed)
    return len(folders)


def _kill_recorded(record: Path) -> int:
    try:
        content = json.loads(record.read_bytes())
        pid, start_time = int(content["pid"]), float(content["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    members = _group_members(pid)
    leader = next((process for process in members if process.pid == pid), None)
    # A leader with another start time is somebody else's process that got the same number since.
    if leader is not None and abs(_start_time(leader) - start_time) > _START_TOLERANCE_SECONDS:
        return 0
    for process in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(members, timeout=5)
    return len(members)


def _group_members(group: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _start_time(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return 0.0
