"""Refusals are counted by reason, those of a batch as well; what nobody foresaw is none."""

from __future__ import annotations

import pytest

from catalog_svc import metrics
from catalog_svc.domain.errors import DigestMismatch, UploadNotFound


def test_refusals_are_counted_by_reason_and_passed_on() -> None:
    before = _refused("DIGEST_MISMATCH"), _refused("UPLOAD_NOT_FOUND")
    with pytest.raises(DigestMismatch), metrics.counting_refusal():
        raise DigestMismatch("clip.mp4", "ab", "cd")
    metrics.count_refusals([UploadNotFound(), object(), UploadNotFound(), RuntimeError()])
    assert (_refused("DIGEST_MISMATCH"), _refused("UPLOAD_NOT_FOUND")) == (before[0] + 1, before[1] + 2)


def test_an_error_that_nobody_foresaw_is_no_refusal() -> None:
    with pytest.raises(ZeroDivisionError), metrics.counting_refusal():
        raise ZeroDivisionError
    assert _refused("ZERO_DIVISION_ERROR") == 0


def _refused(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("reeltune_catalog_uploads_refused_total", {"reason": reason}) or 0.0
