"""Samples as the annotation file of a format. Pure: samples in, text out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from catalog_svc.domain.errors import SampleNotHeld
from catalog_svc.domain.formats.format import CannotHold, Layout, Writer
from catalog_svc.domain.formats.table import FORMATS
from catalog_svc.domain.formats.tags import SEPARATOR, TAG_FIELDS
from catalog_svc.domain.sample import AnnotationFormat, Sample

WRITERS: dict[AnnotationFormat, Writer] = {known.name: known.writer for known in FORMATS if known.writer}


@dataclass(slots=True)
class AnnotationWriter:
    """Writes one annotation file, which reads back as the same samples with the same ids, splits and tags."""

    format: AnnotationFormat
    """One of WRITERS."""
    _count: int = 0

    @property
    def file_name(self) -> str:
        """The name by which the file is found in a dataset."""
        return f"annotations{self._writer.layout.value}"

    def write(self, samples: Iterable[Sample]) -> Iterator[str]:
        """Yields the text of the next rows; raises SampleNotHeld for one that the format has no place for."""
        for sample in samples:
            self._count += 1
            try:
                row = self._writer.write(sample)
            except CannotHold as error:
                raise SampleNotHeld(
                    self.format.value, self._count, sample.sample_id, error.field, error.what
                ) from error
            yield self._text({**row, "split": sample.split, "sample_id": sample.sample_id, **self._tags(sample)})

    def end(self) -> str:
        """Returns what ends the file."""
        if self._writer.layout is not Layout.JSON_ARRAY:
            return ""
        return "\n]\n" if self._count else "[]\n"

    @property
    def _writer(self) -> Writer:
        return WRITERS[self.format]

    def _tags(self, sample: Sample) -> dict[str, Any]:
        if self._writer.layout is Layout.CSV:  # all rows have the columns of the first
            return {TAG_FIELDS[0]: SEPARATOR.join(sample.tags)}
        return {TAG_FIELDS[0]: list(sample.tags)} if sample.tags else {}

    def _text(self, row: dict[str, Any]) -> str:
        if self._writer.layout is Layout.CSV:
            return _csv([list(row), list(row.values())] if self._count == 1 else [list(row.values())])
        text = json.dumps(row, ensure_ascii=False)
        if self._writer.layout is Layout.JSON_LINES:
            return f"{text}\n"
        return f"[\n{text}" if self._count == 1 else f",\n{text}"


def _csv(rows: list[list[str]]) -> str:
    target = io.StringIO()
    csv.writer(target).writerows(rows)
    return target.getvalue()
