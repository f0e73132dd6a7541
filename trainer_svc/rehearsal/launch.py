"""How a trainer starts a rehearsal; see `trainer_svc.qlora.launch`, which it follows in everything."""

from __future__ import annotations

import sys
from pathlib import Path


def rehearsal_command(job: Path, message_fd: int) -> list[str]:
    """Rehearses the job in folder `job` (spec.json, model/, dataset/, out/), speaking on `message_fd`."""
    return [sys.executable, "-m", "trainer_svc.rehearsal.child", "--job", str(job), "--message-fd", str(message_fd)]
