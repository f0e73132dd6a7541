"""What a rehearsal is asked to do. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from trainer_svc.qlora.spec import SpecError, TrainingSpec

SECTION = "rehearsal"
"""The part of `spec.json` that a rehearsal has and a training has not."""


class MisbehaviorKind(StrEnum):
    """What can go wrong; the names are those of the contract without the prefix `MISBEHAVIOR_KIND_`."""

    HANG = "HANG"
    SPIN = "SPIN"
    CRASH = "CRASH"
    EXIT = "EXIT"
    KILL_WORKER = "KILL_WORKER"
    IGNORE_ORDERS = "IGNORE_ORDERS"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    BAD_DATA = "BAD_DATA"
    NONSENSE = "NONSENSE"
    SLOW_STOP = "SLOW_STOP"


@dataclass(frozen=True, slots=True)
class Misbehavior:
    """One thing that goes wrong."""

    kind: MisbehaviorKind
    at_step: int = 0
    """After which step; 0: before the first one of the attempt."""
    attempts: int = 0
    """In how many attempts, the first ones; 0: in all."""


@dataclass(frozen=True, slots=True)
class RehearsalSpec:
    """One rehearsal."""

    training: TrainingSpec
    """Steps, seed, and what is due when: as for a training."""
    attempt: int = 1
    """Which attempt of its job this is."""
    step_milliseconds: int = 0
    checkpoint_bytes: int = 0
    """Size of a checkpoint besides its state."""
    artifact_bytes: int = 0
    """Size of the adapter besides its description."""
    misbehaviors: tuple[Misbehavior, ...] = ()

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The rehearsal in `value`: the fields of a `TrainingSpec`, and a section of its own. Raises `SpecError`."""
        fields = dict(value)
        own = dict(fields.pop(SECTION, {}))
        try:
            ordered = own.pop("misbehaviors", ())
            misbehaviors = tuple(Misbehavior(**{**each, "kind": MisbehaviorKind(each["kind"])}) for each in ordered)
            return cls(TrainingSpec.from_dict(fields).validate(), misbehaviors=misbehaviors, **own)
        except (TypeError, ValueError, KeyError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(SECTION, f"cannot be read: {error}", "use the fields of RehearsalSpec") from error

    @classmethod
    def read(cls, file: Path) -> Self:
        """The rehearsal in a JSON file. Raises `SpecError`."""
        try:
            value = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise SpecError("spec", f"{file.name} cannot be read: {error}", "give a JSON object") from error
        return cls.from_dict(value)

    def due(self, step: int) -> list[MisbehaviorKind]:
        """What goes wrong in this attempt once `step` steps are done."""
        return [
            entry.kind
            for entry in self.misbehaviors
            if entry.at_step == step and (not entry.attempts or self.attempt <= entry.attempts)
        ]
