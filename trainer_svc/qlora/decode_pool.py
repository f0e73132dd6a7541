"""A few long-lived, killable decode processes. A clip that hangs or crashes its decoder fails alone.

Each process has one thread here that spawns it, feeds it, and on a missed deadline kills it with
SIGKILL and spawns another. A clip that failed with decord, or that decord is not for, is tried once more with PyAV, in
a second process that stays for the next such clip.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainer_svc.qlora.decode_worker import decoded_from, request_bytes, run_worker
from trainer_svc.qlora.errors import BadClipError, ClipFault, DecodeProcessError
from trainer_svc.qlora.frame_decoder import (
    FALLBACK,
    HOPELESS,
    DecodedFrames,
    FrameDecoder,
    best_decoder,
    make_decoder,
)
from trainer_svc.qlora.frame_sampling import FrameRequest
from trainer_svc.qlora.spec import RuntimeSpec

_START_SECONDS = 60.0
_CLOSING_SECONDS = 0.1
"""How long a pool that closes may wait for a decode under way to notice."""
_CLIPS_PER_PROCESS = 2000
"""Decoders leak; a fresh process now and then bounds it."""


@dataclass(frozen=True, slots=True)
class _Task:
    clip: str
    request: FrameRequest
    result: Future[DecodedFrames]


class DecodePool:
    """Use as a context manager. `decode` may be called from any thread."""

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout_seconds: float = 30.0,
        decoder: str = "auto",
        make: Callable[[str], FrameDecoder] = make_decoder,
        fallback: str | None = FALLBACK,
    ) -> None:
        """`make` is called in the decode process and must be importable there; `fallback` names the second try."""
        self.decoder = best_decoder() if decoder == "auto" else decoder
        fallback = fallback if fallback != self.decoder else None
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._slots = [
            _Slot(self._tasks, make, self.decoder, fallback, timeout_seconds, number) for number in range(workers)
        ]

    @classmethod
    def of(cls, runtime: RuntimeSpec) -> Self:
        """The pool that a run asks for."""
        return cls(
            workers=runtime.decode_workers, timeout_seconds=runtime.decode_timeout_seconds, decoder=runtime.decoder
        )

    def __enter__(self) -> Self:
        for slot in self._slots:
            slot.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, clip: Path | str, request: FrameRequest) -> Future[DecodedFrames]:
        """The frames to come. The future raises `BadClipError`, or `DecodeProcessError`."""
        result: Future[DecodedFrames] = Future()
        self._tasks.put(_Task(str(clip), request, result))
        return result

    def close(self) -> None:
        """Kills the processes; every clip that waits or is being decoded ends with `CancelledError`."""
        for slot in self._slots:
            slot.closing.set()
        for _ in self._slots:
            self._tasks.put(None)
        for slot in self._slots:
            if slot.ident is not None:
                slot.join()
        while not self._tasks.empty():
            task = self._tasks.get()
            if task is not None:
                task.result.cancel()


class _Slot(threading.Thread):
    """A decode process for each decoder that was needed, one at work at a time, and the thread that owns them. They
    die with this thread (see `decode_worker`)."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[_Task | None],
        make: Callable[[str], FrameDecoder],
        decoder: str,
        fallback: str | None,
        timeout_seconds: float,
        number: int,
    ) -> None:
        super().__init__(name=f"decode-{number}", daemon=True)
        self.closing = threading.Event()
        self._tasks = tasks
        self._make = make
        self._decoder = decoder
        self._fallback = fallback
        self._timeout = timeout_seconds
        self._workers: dict[str, _Worker] = {}

    def run(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                if self.closing.is_set():
                    task.result.cancel()
                elif task.result.set_running_or_notify_cancel():
                    self._carry_out(task)
        finally:
            for decoder in list(self._workers):
                self._discard(decoder)

    def _carry_out(self, task: _Task) -> None:
        try:
            task.result.set_result(self._decode_twice(task))
        # Whatever went wrong is the answer: somebody waits for one.
        except Exception as error:
            task.result.set_exception(error)

    def _decode_twice(self, task: _Task) -> DecodedFrames:
        try:
            return self._decode(self._decoder, task)
        except BadClipError as error:
            if error.fault in HOPELESS or self._fallback is None or self.closing.is_set():
                raise
        return self._decode(self._fallback, task)

    def _decode(self, decoder: str, task: _Task) -> DecodedFrames:
        worker = self._workers.get(decoder)
        if worker is None or worker.clips >= _CLIPS_PER_PROCESS:
            self._discard(decoder)
            worker = self._workers[decoder] = _Worker(self._make, decoder, self.closing)
        try:
            return worker.decode(task.clip, task.request, self._timeout)
        except BadClipError as error:
            if error.fault in (ClipFault.TIMED_OUT, ClipFault.CRASHED):
                self._discard(decoder)
            raise

    def _discard(self, decoder: str) -> None:
        if (worker := self._workers.pop(decoder, None)) is not None:
            worker.close()


class _Worker:
    """A spawned decode process and our end of its pipe."""

    def __init__(self, make: Callable[[str], FrameDecoder], decoder: str, closing: threading.Event) -> None:
        context = multiprocessing.get_context("spawn")
        self.clips = 0
        self._closing = closing
        try:
            self._pipe, theirs = context.Pipe()
            with theirs:
                self._process: SpawnProcess = context.Process(
                    target=run_worker, args=(theirs, make, decoder, os.getpid()), daemon=True, name=f"decode-{decoder}"
                )
                self._process.start()
        except OSError as error:
            raise DecodeProcessError(
                f"no decode process can be started: {error.strerror or error}; "
                "raise this machine's limits of processes and open files, or lower runtime.decode_workers"
            ) from error
        try:
            ready = json.loads(self._receive(time.monotonic() + _START_SECONDS))
        except (TimeoutError, EOFError, OSError) as error:
            self.close()
            raise DecodeProcessError(
                f"the decode process for {decoder} did not start (exit code {self._process.exitcode}); "
                f"check that {decoder} is installed: python -c 'import {'av' if decoder == 'pyav' else decoder}'"
            ) from error
        assert "ready" in ready

    def decode(self, clip: str, request: FrameRequest, timeout_seconds: float) -> DecodedFrames:
        """Raises `BadClipError`; after TIMED_OUT and CRASHED this worker is of no more use."""
        deadline = time.monotonic() + timeout_seconds
        self.clips += 1
        try:
            self._pipe.send_bytes(request_bytes(clip, request))
            header: dict[str, Any] = json.loads(self._receive(deadline))
            if "fault" in header:
                raise BadClipError(clip, ClipFault(header["fault"]), header["detail"])
            return decoded_from(header, self._receive_pixels(header["shape"], deadline))
        except TimeoutError as error:
            raise BadClipError(clip, ClipFault.TIMED_OUT, f"no frames after {timeout_seconds:g} s") from error
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            code = self._process.exitcode
            raise BadClipError(clip, ClipFault.CRASHED, f"the decoder died with exit code {code}") from error

    def close(self) -> None:
        self._process.kill()
        self._process.join(timeout=10)
        self._pipe.close()

    def _receive_pixels(self, shape: list[int], deadline: float) -> bytearray:
        pixels = bytearray(math.prod(shape))
        missing = memoryview(pixels)
        while missing:
            self._await(deadline)
            count = os.readv(self._pipe.fileno(), [missing])
            if not count:
                raise EOFError
            missing = missing[count:]
        return pixels

    def _receive(self, deadline: float) -> bytes:
        """The next message. Raises what `_await` raises, and `EOFError` when the process has died."""
        self._await(deadline)
        return self._pipe.recv_bytes()

    def _await(self, deadline: float) -> None:
        """Until there is something to read. Raises `TimeoutError` at the deadline, and `CancelledError` when the pool
        closes."""
        while not self._pipe.poll(min(_CLOSING_SECONDS, max(0.0, deadline - time.monotonic()))):
            if self._closing.is_set():
                raise CancelledError
            if time.monotonic() >= deadline:
                raise TimeoutError
