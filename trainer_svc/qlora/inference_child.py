"""`python -m trainer_svc.qlora.inference_child`: holds one base model and answers. See `launch.inference_command`.

Only light imports here: decode processes import this module again when they are spawned.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadClipError
from trainer_svc.qlora.failures import explained
from trainer_svc.qlora.launch import DEFAULT_ADAPTER_BYTES
from trainer_svc.qlora.messages import (
    Cancel,
    FailureReason,
    Generate,
    GenerationDone,
    GenerationFailed,
    InferenceReady,
    InferenceUp,
    MessageSocket,
    SideDone,
    TokenText,
)
from trainer_svc.qlora.model_folder import check_model_folder
from trainer_svc.qlora.quick_imports import quick_imports
from trainer_svc.qlora.quiet import quiet_libraries
from trainer_svc.qlora.request_queue import RequestQueue
from trainer_svc.qlora.run_context import ORPHAN_EXIT_CODE
from trainer_svc.qlora.spec import TrainingSpec

if TYPE_CHECKING:
    from trainer_svc.qlora.inference import InferenceEngine


class _Line:
    """The socket to the parent, written to by two threads."""

    def __init__(self, socket: MessageSocket) -> None:
        self._socket = socket
        self._sending = threading.Lock()

    def send(self, message: InferenceUp) -> None:
        try:
            with self._sending:
                self._socket.send(message)
        except OSError:
            # Nobody is left to answer.
            os._exit(ORPHAN_EXIT_CODE)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.inference_child", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--message-fd", type=int, required=True, help="inherited descriptor of a stream socket")
    parser.add_argument("--quantization", type=json.loads, default={}, help="JSON fields of QuantizationSpec")
    parser.add_argument("--max-adapters", type=int, default=4, help="adapters kept in memory")
    parser.add_argument(
        "--max-adapter-bytes", type=int, default=DEFAULT_ADAPTER_BYTES, help="most memory of all their weights"
    )
    options = parser.parse_args(arguments)
    quiet_libraries()
    socket = MessageSocket.from_fd(options.message_fd)
    line, waiting = _Line(socket), RequestQueue()
    signal.signal(signal.SIGTERM, lambda *_: waiting.close())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_listen, args=(socket, waiting), name="requests", daemon=True).start()
    return _load_and_serve(line, waiting, options)


def _load_and_serve(line: _Line, waiting: RequestQueue, options: argparse.Namespace) -> int:
    with DecodePool() as pool:
        try:
            check_model_folder(options.model)
            # Heavy imports only after the folder was found to be safe: a bad one is refused at once.
            with quick_imports():
                from trainer_svc.qlora.inference import InferenceEngine
                from trainer_svc.qlora.model_loader import load_base_model

            spec = TrainingSpec.from_dict({"quantization": options.quantization}).validate()
            base = load_base_model(options.model, spec.quantization)
            engine = InferenceEngine(
                base, pool, max_adapters=options.max_adapters, max_adapter_bytes=options.max_adapter_bytes
            )
        # The edge of the process: whatever went wrong must reach the parent as a typed message.
        except Exception as error:
            line.send(explained(error, line.send))
            return 1
        line.send(InferenceReady(str(base.device), base.fingerprint))
        while (request := waiting.take()) is not None:
            _serve(engine, request, line, waiting)
    return 0


def _serve(engine: InferenceEngine, request: Generate, line: _Line, waiting: RequestQueue) -> None:
    try:
        done = _answer(engine, request, line, waiting)
    # One bad request must not end the others: it is answered with its failure.
    except Exception as error:
        failure = explained(error, line.send)
        reason = _reason(error, failure.reason)
        line.send(GenerationFailed(request.request_id, reason, failure.message, failure.next_step))
        return
    line.send(done)


def _reason(error: Exception, reason: FailureReason) -> FailureReason:
    if isinstance(error, BadClipError):
        return FailureReason.BAD_CLIP
    return FailureReason.BAD_REQUEST if reason in (FailureReason.BAD_SPEC, FailureReason.BAD_DATA) else reason


def _answer(engine: InferenceEngine, request: Generate, line: _Line, waiting: RequestQueue) -> GenerationDone:
    name = request.request_id

    def is_cancelled() -> bool:
        return waiting.is_cancelled(name)

    if is_cancelled():
        return GenerationDone(name, 0, 0, "cancelled", 0.0)
    if not request.beside_base:
        return engine.generate(request, lambda text: line.send(TokenText(name, text)), is_cancelled)
    return engine.generate_beside_base(
        request,
        lambda of_base, text: line.send(TokenText(name, text, of_base)),
        lambda of_base, end: line.send(SideDone(name, of_base, end.prompt_tokens, end.generated_tokens, end.finish)),
        is_cancelled,
    )


def _listen(socket: MessageSocket, waiting: RequestQueue) -> None:
    while (order := socket.receive()) is not None:
        if isinstance(order, Generate):
            waiting.put(order)
        elif isinstance(order, Cancel):
            waiting.cancel(order.request_id)
    os._exit(ORPHAN_EXIT_CODE)


if __name__ == "__main__":
    sys.exit(main())
