"""A whole trainer with small programs for children: `trainer_process.py`, set by TRAINER_… and FAKE_SCRIPT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from meshkit.lifecycle import main
from trainer_svc.bootstrap import ChildCommands, bootstrap
from trainer_svc.settings import TrainerSettings

HERE = Path(__file__).parent
DEVICE = {
    "device_class": "CPU",
    "device_name": "a test",
    "memory_bytes": 2**36,
    "can_4bit": True,
    "four_bit_reason": "",
    "decoder": "pyav",
    "decoder_reason": "",
    "versions": {},
}


def fake_commands(script: str) -> ChildCommands:
    """Children that play `script`."""
    probe = "import sys; print(sys.argv[1])" if script != "no_probe" else "import sys; sys.exit('no driver')"
    return ChildCommands(
        probe=lambda: [sys.executable, "-c", probe, json.dumps(DEVICE)],
        training=lambda job, fd: [sys.executable, str(HERE / "fake_child.py"), script, str(job), str(fd)],
        inference=lambda model, fd, quantization, **_: [
            sys.executable,
            str(HERE / "fake_inference_child.py"),
            str(model),
            str(fd),
            str(quantization["bits"]),
        ],
    )


if __name__ == "__main__":
    settings = TrainerSettings()
    commands = fake_commands(os.environ["FAKE_SCRIPT"])
    main("trainer", settings, lambda runtime: bootstrap(settings, runtime, commands), has_children=True)
