"""How much owners have stored, and how much they may."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorageAllowance:
    """What an owner may store, as the scheduler knows it."""

    limit_bytes: int | None
    """None: as much as there is room for."""
    used_elsewhere_bytes: int
    """Artifacts and checkpoints, which count against the same limit."""

    def has_room(self, stored_bytes: int) -> bool:
        """Tells whether this much may be stored here."""
        return self.limit_bytes is None or stored_bytes + self.used_elsewhere_bytes <= self.limit_bytes


NO_LIMIT = StorageAllowance(None, 0)


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """What one owner has stored in datasets and models, deleted ones included."""

    owner_id: str
    stored_bytes: int = 0
    """Each byte once, however many entries share it."""
    stored_objects: int = 0
    pending_bytes: int = 0
    """Announced by uploads that are under way."""
    datasets: int = 0
    dataset_bytes: int = 0
    models: int = 0
    model_bytes: int = 0
