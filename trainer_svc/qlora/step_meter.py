"""Figures of the steps between two reports."""

from __future__ import annotations

import resource
import time

import torch


class StepMeter:
    """Add every step, then `take` the means and start over."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset(0.0)

    def add(self, *, loss: float, grad_norm: float, samples: int, tokens: int) -> None:
        self._losses.append(loss)
        self._norms.append(grad_norm)
        self._samples += samples
        self._tokens += tokens

    def take(self, *, learning_rate: float, wait_seconds: float) -> dict[str, float]:
        """The figures since the last call. `wait_seconds`: total time spent waiting for data since the beginning."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        steps = len(self._losses)
        values = {
            "loss": sum(self._losses) / steps,
            "learning_rate": learning_rate,
            "grad_norm": sum(self._norms) / steps,
            "samples_per_second": self._samples / seconds,
            "tokens_per_second": self._tokens / seconds,
            "data_wait_fraction": min(1.0, (wait_seconds - self._waited) / seconds),
            "step_seconds": seconds / steps,
            "peak_memory_bytes": float(peak_memory(self._device)),
        }
        self._reset(wait_seconds)
        return values

    def skip(self, seconds: float) -> None:
        """Leaves out time that was no training: an evaluation, a checkpoint."""
        self._began += seconds

    @property
    def steps(self) -> int:
        return len(self._losses)

    def _reset(self, waited: float) -> None:
        self._began = time.perf_counter()
        self._waited = waited
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._samples = 0
        self._tokens = 0


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
