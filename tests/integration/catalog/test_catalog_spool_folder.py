"""The folder for what passes through: nobody's is taken away while its process lives."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from catalog_svc.clients.spool_folder import spool_folder

_HOLD = """
import signal, sys
from pathlib import Path
from catalog_svc.clients.spool_folder import spool_folder
with spool_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    signal.pause()
"""


def test_a_living_process_keeps_its_folder_and_a_dead_one_does_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with spool_folder(tmp_path) as ours:
            assert theirs.is_dir()
            assert ours != theirs
        assert not ours.exists()
        (theirs / "clip.mp4").write_bytes(b"half a clip")
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert theirs.is_dir()
        with spool_folder(tmp_path) as ours:
            assert list(tmp_path.iterdir()) == [ours]
