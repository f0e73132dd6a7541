"""Datasets: an entry and what its validation found."""

from __future__ import annotations

from dataclasses import dataclass, field

from catalog_svc.domain.entry import Entry
from catalog_svc.domain.sample import AnnotationFormat


@dataclass(frozen=True, slots=True)
class DatasetFindings:
    """What the running or last validation found, as far as it got."""

    clips: int = 0
    clips_checked: int = 0
    duration_seconds: float = 0.0
    rows: int = 0
    train_rows: int = 0
    eval_rows: int = 0
    errors: int = 0
    warnings: int = 0
    annotation_format: AnnotationFormat | None = None
    fingerprint: str = ""
    quarantined_rows: int = 0
    quarantined_clips: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """Clips and the annotation file that says what they show."""

    entry: Entry
    findings: DatasetFindings = field(default_factory=DatasetFindings)
