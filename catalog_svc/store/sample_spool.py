"""Samples on their way into the database: on disk, so that memory stays flat however many there are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from catalog_svc.domain.sample import SampleText

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


class SampleSpool:
    """A file without a name that holds samples until it is closed."""

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> SampleSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, sample: SampleText) -> None:
        """Adds a sample."""
        self._file.write(f"{_ENCODE((sample.sample_id, sample.split, sample.messages, sample.tags))}\n".encode())

    def __iter__(self) -> Iterator[SampleText]:
        """Yields the samples in the order in which they came."""
        self._file.seek(0)
        for line in self._file:
            sample_id, split, messages, tags = json.loads(line)
            yield SampleText(sample_id, split, messages, tuple(tags))
