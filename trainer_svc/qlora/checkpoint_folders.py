"""Where a run's checkpoints lie: whole folders named by step, the newest of its own run found again. Imports no
training library, so that every recipe keeps them alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer_svc.qlora.errors import CheckpointMismatchError
from trainer_svc.qlora.folder_files import is_whole, write_folder, write_json

_PREFIX = "step-"
_STATE = "state.json"


def write_checkpoint(
    folder: Path,
    content: dict[str, Any],
    fill: Callable[[Path], None],
    *,
    step: int,
    identity: dict[str, Any],
    keep: int,
) -> Path:
    """Writes `folder`/step-NNNNNNNN whole: what `fill` writes, and a state of `content`. Then deletes all but the
    newest `keep`. `identity` is what must be the same for a run to go on from here."""
    target = folder / f"{_PREFIX}{step:08d}"

    def fill_all(building: Path) -> None:
        fill(building)
        write_json(building / _STATE, {"step": step, "identity": identity, **content})

    write_folder(target, fill_all)
    for _, old in list(_numbered(folder))[keep:]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Path | None, list[Path]]:
    """(the newest whole checkpoint, newer ones that are damaged). Raises `CheckpointMismatchError` when it belongs
    to another run."""
    damaged = []
    for _, candidate in _numbered(folder):
        if not is_whole(candidate):
            damaged.append(candidate)
            continue
        saved = read_state(candidate)["identity"]
        if saved != identity:
            changed = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
            raise CheckpointMismatchError(f"{candidate} was saved by a run with another {', '.join(changed)}")
        return candidate, damaged
    return None, damaged


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The `content` of a checkpoint, its `step` and `identity` included."""
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_bytes())
    return state


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Checkpoints by name, newest first."""
    found = [
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in folder.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
    ]
    yield from sorted(found, reverse=True)
