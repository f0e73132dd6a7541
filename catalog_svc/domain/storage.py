"""Object stores of users' own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

LocationId = NewType("LocationId", str)

MAX_LOCATIONS = 100
"""Of one user."""
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class StorageCredentials:
    """Who reads."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StorageLocation:
    """A bucket, without the secret that opens it."""

    id: LocationId
    owner_id: str
    name: str
    endpoint: str
    """`https://host` or `https://host:port`."""
    region: str
    bucket: str
    access_key_id: str
    """Empty: everybody may read."""
    create_time: datetime
    update_time: datetime

    @property
    def has_secret(self) -> bool:
        return bool(self.access_key_id)


@dataclass(frozen=True, slots=True)
class OpenLocation:
    """A bucket with what opens it; never leaves the process."""

    endpoint: str
    region: str
    bucket: str
    credentials: StorageCredentials | None
