"""An inference child without a model: `fake_inference_child.py MODEL_FOLDER MESSAGE_FD BITS`.

It answers with what it was asked, word by word; the first word of a prompt may be an order: `crash`, `hang`, `slow`,
`undecodable`, `refused`, `fault` (of the device), `seed` (tell it).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from queue import Queue

from trainer_svc.qlora import messages


def main() -> None:
    model, fd, bits = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    line = messages.MessageSocket.from_fd(fd)
    waiting: Queue[messages.Generate] = Queue()
    cancelled: set[str] = set()

    def listen() -> None:
        while (order := line.receive()) is not None:
            if isinstance(order, messages.Generate):
                waiting.put(order)
            elif isinstance(order, messages.Cancel):
                cancelled.add(order.request_id)
        os._exit(3)

    threading.Thread(target=listen, daemon=True).start()
    if b"unloadable" in (model / "config.json").read_bytes():
        line.send(messages.Failed(messages.FailureReason.MODEL_UNSUPPORTED, "no such family", "use another"))
        sys.exit(1)
    line.send(messages.InferenceReady("cpu", f"{bits} bits"))
    while True:
        answer(waiting.get(), line, cancelled)


def answer(request: messages.Generate, line: messages.MessageSocket, cancelled: set[str]) -> None:
    order = request.prompt.split()[0]
    if order == "crash":
        os._exit(9)
    if order == "hang":
        time.sleep(600)
    if order in ("undecodable", "refused"):
        reasons = {"undecodable": messages.FailureReason.BAD_CLIP, "refused": messages.FailureReason.BAD_REQUEST}
        line.send(messages.GenerationFailed(request.request_id, reasons[order], "clip one.mp4: odd", "another clip"))
        return
    if order == "fault":
        reason = messages.FailureReason.DEVICE_LOST
        line.send(messages.GenerationFailed(request.request_id, reason, "CUDA error: launch failure", "look at it"))
        return
    clip = Path(request.clip or "").read_text()
    adapter = (Path(request.adapter_dir) / "adapter.safetensors").read_text() if request.adapter_dir else "base"
    words = [f"{adapter}:", f" {clip}", f" {os.getpid()}"] + [" again"] * (200 if order == "slow" else 0)
    words += [f" {request.seed}"] if order == "seed" else []
    sides = (True, False) if request.beside_base else (False,)
    for index, word in enumerate(words[: request.max_new_tokens]):
        if request.request_id in cancelled:
            line.send(messages.GenerationDone(request.request_id, 5, 1, "cancelled", 0.1))
            return
        for of_base in sides:
            spoken = "base:" if of_base and index == 0 else word
            line.send(messages.TokenText(request.request_id, spoken, of_base))
        time.sleep(0.5 if order == "slow" else 0)
    finish = "length" if len(words) >= request.max_new_tokens else "stop"
    if request.beside_base:
        for of_base in sides:
            line.send(messages.SideDone(request.request_id, of_base, 5, len(words), finish))
    line.send(messages.GenerationDone(request.request_id, 5, len(words), finish, 0.1))


if __name__ == "__main__":
    main()
