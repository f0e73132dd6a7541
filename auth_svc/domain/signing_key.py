"""Which of the signing keys signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

LIVE_KEYS = 2
"""The newest key and its predecessor verify tokens; older ones are gone."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its name."""

    kid: str
    """RFC 7638 thumbprint of the public key."""
    private_pem: bytes = field(repr=False)
    create_time: datetime


def choose_signer(keys: Sequence[SigningKey], now: datetime, activation: timedelta) -> SigningKey:
    """Returns the newest key that everybody can know by now.

    Those who verify tokens keep the public keys for a while, so a new key is published for `activation` before it
    signs; a key without elder ones signs at once.

    Raises:
        ValueError: there is no key.
    """
    if not keys:
        raise ValueError("there is no signing key")
    newest_first = sorted(keys, key=lambda key: (key.create_time, key.kid), reverse=True)
    return next((key for key in newest_first if now - key.create_time >= activation), newest_first[-1])
