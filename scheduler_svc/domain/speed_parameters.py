"""What makes training faster and changes nothing of what is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EncoderCache(StrEnum):
    """Whether the vision encoder's outputs are kept from one pass over the data to the next."""

    AUTO = "AUTO"
    OFF = "OFF"


@dataclass(frozen=True, slots=True)
class SpeedParameters:
    """Every value in force."""

    encoder_cache: EncoderCache = EncoderCache.AUTO


def speed_from_json(value: Mapping[str, Any]) -> SpeedParameters:
    """Returns the parameters in plain values; absent ones get a default."""
    return SpeedParameters(**{name: EncoderCache(one) for name, one in value.items()})
