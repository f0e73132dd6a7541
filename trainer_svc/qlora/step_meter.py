"""Figures of the steps between two reports."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Phase = Literal["forward", "backward", "optimizer"]
"""forward: the vision encoder and the loss; optimizer: everything from the gradients to the new weights."""
_PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer")


class StepMeter:
    """Add every step, then `take` the means and start over."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset(0.0)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Counts the time of what is done inside to that part of a step.

        A GPU works behind the program's back: there, marks are set in its own queue, and read when figures are taken.
        """
        if self._device.type != "cuda":
            began = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self._marks.append((name, first, last))

    def add(
        self, *, loss: float, grad_norm: float, learning_rate: float, samples: int, clips: int, tokens: int
    ) -> None:
        """Takes a step in; a norm that overflowed is not among the figures."""
        self._losses.append(loss)
        if math.isfinite(grad_norm):
            self._norms.append(grad_norm)
        self._learning_rate = learning_rate
        self._samples += samples
        self._clips += clips
        self._tokens += tokens

    def take(self, *, wait_seconds: float) -> dict[str, float]:
        """The figures since the last call. `wait_seconds`: total time spent waiting for data since the beginning."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        steps = len(self._losses)
        waited = wait_seconds - self._waited
        self._read_marks()
        values = {
            "loss": sum(self._losses) / steps,
            "learning_rate": self._learning_rate,
            **({"grad_norm": sum(self._norms) / len(self._norms)} if self._norms else {}),
            "samples_per_second": self._samples / seconds,
            "tokens_per_second": self._tokens / seconds,
            "clips_per_second": self._clips / seconds,
            "data_wait_fraction": min(1.0, waited / seconds),
            "step_seconds": seconds / steps,
            "data_seconds": waited / steps,
            **{f"{name}_seconds": self._seconds[name] / steps for name in _PHASES},
            "peak_memory_bytes": float(peak_memory(self._device)),
        }
        self._reset(wait_seconds)
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of what is done inside, which is no training: an evaluation, a checkpoint."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    @property
    def steps(self) -> int:
        return len(self._losses)

    def _read_marks(self) -> None:
        if self._marks:
            torch.cuda.synchronize(self._device)
        for name, first, last in self._marks:
            self._seconds[name] += first.elapsed_time(last) / 1000

    def _reset(self, waited: float) -> None:
        self._seconds = dict.fromkeys(_PHASES, 0.0)
        self._marks: list[tuple[Phase, torch.cuda.Event, torch.cuda.Event]] = []
        self._clips = 0
        self._began = time.perf_counter()
        self._waited = waited
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._learning_rate = 0.0
        self._samples = 0
        self._tokens = 0


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
