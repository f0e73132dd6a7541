"""Resident memory of the mesh's catalog and of its children, sampled while a block runs."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

import psutil

_SAMPLE_SECONDS = 0.05
_MIB = 1024**2


class CatalogMemory:
    """An async context; its figures hold when the block has ended."""

    def __init__(self) -> None:
        self._before = self._service = self._child = 0
        self._sampling: asyncio.Task[None] | None = None

    @property
    def service_peak_mib(self) -> float:
        return self._service / _MIB

    @property
    def service_growth_mib(self) -> float:
        """From the beginning of the block to the peak."""
        return (self._service - self._before) / _MIB

    @property
    def child_peak_mib(self) -> float:
        """Of the largest child."""
        return self._child / _MIB

    async def __aenter__(self) -> CatalogMemory:
        service = _catalog()
        self._before = self._service = service.memory_info().rss
        self._sampling = asyncio.create_task(self._sample(service))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sampling is not None
        self._sampling.cancel()
        await asyncio.gather(self._sampling, return_exceptions=True)

    async def _sample(self, service: psutil.Process) -> None:
        while True:
            self._service = max(self._service, service.memory_info().rss)
            for child in service.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._child = max(self._child, child.memory_info().rss)
            await asyncio.sleep(_SAMPLE_SECONDS)


def _catalog() -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[-1:] == ["catalog_svc"]:
                return process
    raise RuntimeError("no catalog runs below this process")
