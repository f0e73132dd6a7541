"""The probe child: `python -m catalog_svc.probe.child PARENT_PID`. Answers one request a line until its input ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from catalog_svc.probe.decode import decode_clip
from catalog_svc.probe.json_scan import scan_json
from catalog_svc.probe.limits import allow_cpu, confine, die_with
from catalog_svc.probe.protocol import decode, encode, outcome_to_json


def main() -> None:
    """Gives up what is not needed, says so, and answers requests."""
    die_with(int(sys.argv[1]))
    # Ctrl-C goes to the whole group; the service decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _take_stdout()
    has_no_network = confine()
    _send(answers, {"ready": True, "has_no_network": has_no_network})
    for line in sys.stdin.buffer:
        _send(answers, _answer(decode(line)))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    allow_cpu(float(request["seconds"]))
    path = Path(request["path"])
    if request["kind"] == "json":
        return {"remote_code": scan_json(path)}
    return outcome_to_json(decode_clip(path, int(request["max_pixels"])))


def _take_stdout() -> BinaryIO:
    """Returns the pipe to the service, and points standard output elsewhere: no library may write into the answers."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    return answers


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(encode(message))
    answers.flush()


if __name__ == "__main__":
    main()
