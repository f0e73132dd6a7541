"""What an adapter answered to held-out rows while it was trained."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PREDICTIONS = 8
"""The most of each list that one measurement tells."""
MAX_TEXT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one row."""

    sample_id: str
    question: str
    expected: str
    generated: str
    loss: float
    """Mean of a token of the row's own answer."""
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers of one measurement."""

    step: int
    best: tuple[Prediction, ...]
    """Lowest loss first."""
    worst: tuple[Prediction, ...]
    """Highest loss first."""
