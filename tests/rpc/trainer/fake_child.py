"""A training child without training: `fake_child.py SCRIPT JOB_FOLDER MESSAGE_FD` speaks the real messages."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer_svc.qlora import messages
from trainer_svc.qlora.errors import DecodeProcessError
from trainer_svc.qlora.failures import as_failure

STEPS = 6


class Child:
    def __init__(self, job: Path, fd: int) -> None:
        self.job = job
        self.fd = fd
        self.line = messages.MessageSocket.from_fd(fd)

    def start(self, first: int = 0) -> None:
        for phase in ("dataset", "model", "adapter", "first_step"):
            self.line.send(messages.Starting(phase))
        self.line.send(messages.Started(STEPS, first, 10, 100, 4, 0, "cpu", "decord", 3))

    def step(self, number: int) -> None:
        self.line.send(messages.Progress(number, STEPS, 0, number / STEPS))
        self.line.send(messages.Metrics(number, {"loss": 1 / number, "peak_memory_bytes": 5.0}))
        self.line.send(messages.Log("info", f"line {number}"))

    def write(self, folder: Path, **files: str) -> dict[str, object]:
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for name, text in files.items():
            (folder / name).write_text(text)
            digest = hashlib.sha256(text.encode()).hexdigest()
            entries.append({"path": name, "size": len(text.encode()), "sha256": digest})
        manifest = {"files": entries}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return manifest

    def checkpoint(self, step: int) -> str:
        folder = self.job / "out" / "checkpoints" / f"step-{step:08d}"
        self.write(folder, **{"state.json": f"step {step}"})
        self.line.send(messages.CheckpointSaved(step, str(folder)))
        return str(folder)

    def complete(self, steps: int = STEPS) -> None:
        folder = self.job / "out" / "adapter"
        manifest = self.write(folder, **{"adapter_model.safetensors": f"weights after {steps}"})
        self.line.send(messages.Completed(str(folder), manifest, steps, 0.5))

    def order(self, seconds: float) -> messages.StopReason | None:
        """The stop order that comes within the time, if any."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        message = self.line.receive() if ready else None
        if ready and message is None:
            sys.exit(3)
        return message.reason if isinstance(message, messages.Stop) else None


def normal(child: Child) -> None:
    child.start()
    for number in range(1, STEPS + 1):
        child.step(number)
        if number % 2 == 0:
            child.checkpoint(number)
    child.complete()


def early(child: Child) -> None:
    """Answers held-out rows, and ends before its last step."""
    child.start()
    child.step(1)
    answer = {"sample_id": "e1", "question": "q", "expected": "é" * 900, "generated": "no", "loss": 2.5, "is_cut": True}
    child.line.send(messages.Predicted(1, [], [answer]))
    folder = child.job / "out" / "adapter"
    manifest = child.write(folder, **{"adapter_model.safetensors": "weights"})
    child.line.send(messages.Completed(str(folder), manifest, 1, 0.5, "ended at step 1 of 6: no fall"))


def obedient(child: Child) -> None:
    """Trains for ever, and stops as it is told."""
    child.start()
    _train_until_told(child, 0)


def saver(child: Child) -> None:
    """The same, once it has saved a checkpoint."""
    child.start()
    child.step(1)
    child.checkpoint(1)
    _train_until_told(child, 1)


def _train_until_told(child: Child, number: int) -> None:
    while True:
        number += 1
        child.step(number)
        reason = child.order(0.05)
        if reason is messages.StopReason.USER:
            folder = child.job / "out" / "adapter"
            manifest = child.write(folder, **{"adapter_model.safetensors": f"so far {number}"})
            child.line.send(messages.Stopped(reason, number, str(folder), child.checkpoint(number), manifest))
            return
        if reason is messages.StopReason.DRAIN:
            child.line.send(messages.Stopped(reason, number, None, child.checkpoint(number), None))
            return


def deaf(child: Child) -> None:
    """Trains for ever, whatever it is told, and has a child of its own."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child.start()
    for number in range(1, 100_000):
        child.step(number)
        time.sleep(0.05)


def chatty(child: Child) -> None:
    """Trains for ever, whatever it is told, and talks about it without a pause."""
    child.start()
    for number in range(1, 10_000_000):
        child.step(number)


def hung(child: Child) -> None:
    """Makes two steps, and then only breathes."""
    child.start()
    child.step(1)
    child.step(2)
    while True:
        child.line.send(messages.Log("info", "still here"))
        time.sleep(0.05)


def crash(child: Child) -> None:
    child.start()
    os.write(1, f"loading with password=hunter2 from {child.job / 'model'}\n".encode())
    os.write(2, b"Segmentation fault\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_after_checkpoint(child: Child) -> None:
    child.start()
    child.step(1)
    child.step(2)
    child.checkpoint(2)
    os.kill(os.getpid(), signal.SIGKILL)


def damager(child: Child) -> None:
    """Spoils its checkpoint in place the moment that it is saved: the trainer's copy is the same file."""
    child.start()
    child.step(1)
    folder = child.job / "out" / "checkpoints" / "step-00000001"
    child.write(folder, **{"state.json": "step 1"})
    (folder / "state.json").write_text("step 2")
    child.line.send(messages.CheckpointSaved(1, str(folder)))
    child.order(0.5)
    child.complete()


def out_of_memory(child: Child) -> None:
    child.start()
    child.line.send(messages.Failed(messages.FailureReason.OUT_OF_MEMORY, "no memory", "lower batch_size"))
    sys.exit(1)


def undecoding(child: Child) -> None:
    """Cannot start the processes that decode."""
    child.start()
    child.line.send(as_failure(DecodeProcessError("the decode process for decord did not start (exit code -9)")))
    sys.exit(1)


def nonsense(child: Child) -> None:
    os.write(child.fd, b"\xff\xff\xff\xffrubbish")
    time.sleep(600)


def resumed(child: Child) -> None:
    """Goes on from whatever checkpoint lies there."""
    found = sorted((child.job / "out" / "checkpoints").glob("step-*"))
    first = int(found[-1].name.removeprefix("step-")) if found else 0
    child.start(first)
    for number in range(first + 1, STEPS + 1):
        child.step(number)
    child.complete(steps=STEPS)


def picky(child: Child) -> None:
    """Refuses every checkpoint."""
    if any((child.job / "out" / "checkpoints").glob("step-*")):
        child.line.send(messages.Failed(messages.FailureReason.CHECKPOINT_MISMATCH, "another run's", ""))
        sys.exit(1)
    normal(child)


def liar(child: Child) -> None:
    """Announces other bytes than it wrote."""
    child.start()
    child.step(1)
    folder = child.job / "out" / "adapter"
    manifest = child.write(folder, **{"adapter_model.safetensors": "one"})
    (folder / "adapter_model.safetensors").write_text("two")
    child.line.send(messages.Completed(str(folder), manifest, 1, 0.5))


def environment(child: Child) -> None:
    """Logs its surroundings, and completes."""
    child.start()
    child.step(1)
    child.line.send(messages.Log("info", json.dumps({"cwd": os.getcwd(), "names": sorted(os.environ)})))
    child.complete()


if __name__ == "__main__":
    scripts = {script.__name__: script for script in (normal, obedient, deaf, hung, crash, out_of_memory, nonsense)}
    scripts |= {script.__name__: script for script in (resumed, picky, liar, environment, early, undecoding)}
    scripts |= {script.__name__: script for script in (crash_after_checkpoint, damager, chatty, saver)}
    scripts[sys.argv[1]](Child(Path(sys.argv[2]), int(sys.argv[3])))
