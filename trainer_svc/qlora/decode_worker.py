"""The loop of one decode process. Knows no torch; dies with its parent; answers in JSON and raw pixels."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from trainer_svc.qlora.errors import BadClipError, ClipFault
from trainer_svc.qlora.frame_decoder import DecodedFrames, FrameDecoder
from trainer_svc.qlora.frame_sampling import FrameRequest

_MEMORY_BYTES = 8 << 30
_PR_SET_PDEATHSIG = 1


def run_worker(pipe: Connection, make: Callable[[str], FrameDecoder], name: str, parent: int) -> None:
    """Answers requests on `pipe` until it closes. Target of a spawned process."""
    _die_with(parent)
    # Ctrl-C and a service's SIGTERM go to the whole group; the parent decides when a decoder ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decoder = make(name)
    _limit_resources()
    pipe.send_bytes(json.dumps({"ready": decoder.name}).encode())
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        _answer(pipe, decoder, Path(request["clip"]), FrameRequest(**request["frames"]))


def _answer(pipe: Connection, decoder: FrameDecoder, clip: Path, request: FrameRequest) -> None:
    try:
        decoded = decoder.decode(clip, request)
    except BadClipError as error:
        pipe.send_bytes(json.dumps({"fault": error.fault, "detail": error.detail}).encode())
        return
    except MemoryError:
        fault = {"fault": ClipFault.UNDECODABLE, "detail": f"needs more than {_MEMORY_BYTES >> 30} GiB of memory"}
        pipe.send_bytes(json.dumps(fault).encode())
        return
    header = {
        "shape": decoded.frames.shape,
        "timestamps": decoded.timestamps,
        "frame_count": decoded.frame_count,
        "frames_in_range": decoded.frames_in_range,
        "fps": decoded.fps,
        "duration": decoded.duration,
        "indices": decoded.indices,
    }
    pipe.send_bytes(json.dumps(header).encode())
    # Bare bytes after the header: messages would be copied twice more, at either end.
    pixels = np.ascontiguousarray(decoded.frames).data.cast("B")
    while pixels:
        pixels = pixels[os.write(pipe.fileno(), pixels) :]


def request_bytes(clip: str, request: FrameRequest) -> bytes:
    """What `run_worker` takes for one clip."""
    return json.dumps({"clip": clip, "frames": asdict(request)}).encode()


def decoded_from(header: dict[str, object], pixels: bytearray) -> DecodedFrames:
    """The answer put together again."""
    shape = header["shape"]
    stamps = header["timestamps"]
    assert isinstance(shape, list)
    indices = header["indices"]
    assert isinstance(stamps, list)
    assert isinstance(indices, list)
    frames = np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
    return DecodedFrames(
        frames,
        tuple(stamps),
        int(str(header["frame_count"])),
        int(str(header["frames_in_range"])),
        float(str(header["fps"])),
        float(str(header["duration"])),
        tuple(indices),
    )


def _die_with(parent: int) -> None:
    """Linux: SIGKILL for this process when the thread that spawned it is gone, even if it hangs in native code."""
    libc = ctypes.CDLL(None, use_errno=True)
    prctl = getattr(libc, "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
