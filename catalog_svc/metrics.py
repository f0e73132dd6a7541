"""What the catalog counts, in this process: replicas are summed. Labels are words of the contract, never ids."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram

from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import CatalogError

REGISTRY = CollectorRegistry()
"""Shown by the service as a whole."""

UPLOADS_OPENED = Counter("reeltune_catalog_uploads_opened_total", "Uploads begun", ["kind"], registry=REGISTRY)
UPLOADS_COMPLETED = Counter(
    "reeltune_catalog_uploads_completed_total",
    "Files put in place: sent straight there, staged and then read through, or known before and not sent at all",
    ["kind", "way"],
    registry=REGISTRY,
)
UPLOADS_REFUSED = Counter(
    "reeltune_catalog_uploads_refused_total", "Files refused, when opened or completed", ["reason"], registry=REGISTRY
)
UPLOAD_BYTES = Counter(
    "reeltune_catalog_upload_bytes_total", "Bytes of the files put in place", ["kind", "way"], registry=REGISTRY
)
VALIDATIONS = Counter(
    "reeltune_catalog_validations_total",
    "Validations that have ended: with a state, or without a verdict",
    ["kind", "outcome"],
    registry=REGISTRY,
)
VALIDATION_SECONDS = Histogram(
    "reeltune_catalog_validation_seconds",
    "Time that a validation with a verdict took",
    ["kind"],
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    registry=REGISTRY,
)
IMPORTS = Counter(
    "reeltune_catalog_imports_ended_total", "Imports that have ended, and why", ["state", "reason"], registry=REGISTRY
)
IMPORT_FILES = Counter(
    "reeltune_catalog_import_files_total",
    "Files of imports, fetched or given up",
    ["outcome"],
    registry=REGISTRY,
)
IMPORT_BYTES = Counter("reeltune_catalog_import_bytes_total", "Bytes of the files fetched", registry=REGISTRY)
GARBAGE = Counter("reeltune_catalog_garbage_removed_total", "Pieces of garbage dealt with", ["kind"], registry=REGISTRY)
SWEPT = Counter(
    "reeltune_catalog_sweep_objects_total",
    "Objects that nothing refers to and that were handed to the garbage collection",
    registry=REGISTRY,
)

# Told as 0 from the start: of a counter that appears with its first event nobody sees the rise.
for _outcome in ("done", "failed"):
    IMPORT_FILES.labels(_outcome)
for _kind in EntryKind:
    UPLOADS_OPENED.labels(_kind.noun)
    VALIDATION_SECONDS.labels(_kind.noun)
    for _way in ("direct", "staged", "known"):
        UPLOADS_COMPLETED.labels(_kind.noun, _way)
        UPLOAD_BYTES.labels(_kind.noun, _way)
    for _outcome in ("READY", "ERROR", "LEASE_LOST", "POSTPONED", "UNFORESEEN"):
        VALIDATIONS.labels(_kind.noun, _outcome)


@contextlib.contextmanager
def counting_refusal() -> Iterator[None]:
    """Counts the error of the catalog's own that the block ends with, if it does."""
    try:
        yield
    except CatalogError as error:
        UPLOADS_REFUSED.labels(_reason(type(error).__name__)).inc()
        raise


def count_refusals(outcomes: Iterable[object]) -> None:
    """Counts the catalog's own errors among the outcomes of a batch."""
    for outcome in outcomes:
        if isinstance(outcome, CatalogError):
            UPLOADS_REFUSED.labels(_reason(type(outcome).__name__)).inc()


@functools.cache
def _reason(error: str) -> str:
    """`DIGEST_MISMATCH` of DigestMismatch."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error).upper()
