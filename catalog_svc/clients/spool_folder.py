"""The folder on disk for what passes through: one for each process, removed with it however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "reeltune-spool-"
_UNCLAIMED = ".reeltune-spool-"
_LOCK_NAME = ".lock"


@contextlib.contextmanager
def spool_folder(parent: Path | None) -> Iterator[Path]:
    """Gives a new folder under `parent`, by default the system's one for temporary files, and removes it at the end.

    Folders that processes left behind when they were killed are removed first. A folder's process holds a lock on a
    file in it, which the system lets go of with the process.
    """
    place = parent or Path(tempfile.gettempdir())
    _remove_abandoned(place)
    building = Path(tempfile.mkdtemp(prefix=_UNCLAIMED, dir=place))
    with (building / _LOCK_NAME).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # It gets its name with the lock held: nobody takes it for abandoned.
        folder = building.rename(place / f"{_PREFIX}{building.name.removeprefix(_UNCLAIMED)}")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    for lock_file in place.glob(f"{_PREFIX}*/{_LOCK_NAME}"):
        # Another user's folder, or one that another process removes at this moment, is none of ours.
        with contextlib.suppress(OSError), lock_file.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
