"""What a job can be asked for beyond the shape of its adapter, and what is refused with its reason.

The names are those of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class LoraInitialization(StrEnum):
    """What an adapter begins with."""

    DEFAULT = "DEFAULT"
    EVA = "EVA"
    LOFTQ = "LOFTQ"
    PISSA = "PISSA"
    OLORA = "OLORA"
    ORTHOGONAL = "ORTHOGONAL"
    MICA = "MICA"
    KASA = "KASA"
    MONTECLORA = "MONTECLORA"
    CORDA = "CORDA"
    LORA_GA = "LORA_GA"


_FAILS = "fails on 4-bit weights"
_SILENT = "becomes plain LoRA on 4-bit weights without a word"
_REWRITES = "rewrites the frozen weights, which are in 4 bits"
_NEARER = "use LOFTQ, which also begins from the base model's own weights"
REFUSED_INITIALIZATIONS: Mapping[LoraInitialization, str] = {
    LoraInitialization.PISSA: f"PiSSA {_FAILS}: {_NEARER}",
    LoraInitialization.OLORA: "OLoRA changes what a 4-bit model answers before the first step: use DEFAULT, or EVA",
    LoraInitialization.ORTHOGONAL: f"orthogonal initialisation {_FAILS}: use DEFAULT, or EVA",
    LoraInitialization.MICA: f"MiCA {_FAILS}: use EVA, which chooses directions by the data",
    LoraInitialization.KASA: f"KaSA {_SILENT}: use lora.rank_allocation, which keeps what the loss would miss most",
    LoraInitialization.MONTECLORA: f"MonteCLoRA {_SILENT}: use DEFAULT with lora.dropout",
    LoraInitialization.CORDA: f"CorDA {_REWRITES}: use EVA, which chooses directions by the data",
    LoraInitialization.LORA_GA: f"LoRA-GA {_REWRITES}: use EVA, or lora.rank_allocation",
}
"""Why each is refused, and what to use instead."""


class FramePlacement(StrEnum):
    """How frames are chosen."""

    EVEN = "EVEN"
    SEGMENT_JITTER = "SEGMENT_JITTER"


class Preset(StrEnum):
    """A set of values to start from."""

    FAST = "FAST"
    BALANCED = "BALANCED"
    BEST = "BEST"
    JETSON_8GB = "JETSON_8GB"


@dataclass(frozen=True, slots=True)
class LayerPattern:
    """A rank or a scale of their own for some layers."""

    pattern: str
    rank: int | None = None
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Ends a job when the loss on held-out rows no longer falls."""

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class SamplePredictions:
    """Answers to some held-out rows with each measurement."""

    count: int
    max_new_tokens: int = 64


def preset_from_json(value: str | None) -> Preset | None:
    """Returns the preset of that name; None for none."""
    return None if value is None else Preset(value)


def early_stopping_from_json(value: Mapping[str, Any] | None) -> EarlyStopping | None:
    """Returns the rule in plain values; None for none."""
    return None if value is None else EarlyStopping(**value)


def sample_predictions_from_json(value: Mapping[str, Any] | None) -> SamplePredictions | None:
    """Returns what is asked for in plain values; None for none."""
    return None if value is None else SamplePredictions(**value)
