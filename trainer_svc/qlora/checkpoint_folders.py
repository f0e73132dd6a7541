"""Where a run's checkpoints lie: whole folders named by step, the newest of its own run found again. Imports no
training library, so that every recipe keeps them alike."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_svc.qlora.errors import CheckpointMismatchError
from trainer_svc.qlora.folder_files import is_whole, undo_broken_replacements, write_folder, write_json
from trainer_svc.qlora.spec import TrainingSpec

_PREFIX = "step-"
_STATE = "state.json"
_LATER = ("processor", "plugin", "clips")
"""Parts of an identity that checkpoints of older versions do not tell: these are taken for what they are now."""


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which checkpoints of a run stay: the scheduler keeps those of a job by the same rule."""

    last: int
    """So many of the newest, 1 or more."""
    best: bool = False
    """The one with the lowest loss on the held-out samples, the newest of several."""
    every_steps: int = 0
    """Each whose step is a multiple of this; 0: none."""

    def kept(self, losses: Mapping[int, float | None]) -> frozenset[int]:
        """The steps that stay, of all steps with their losses where measured."""
        newest = sorted(losses, reverse=True)
        kept = set(newest[: self.last])
        if self.every_steps:
            kept.update(step for step in newest if step % self.every_steps == 0)
        measured = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
        if self.best and measured:
            kept.add(min(measured, key=lambda step: (measured[step], -step)))
        return frozenset(kept)


def keep_rule(spec: TrainingSpec) -> KeepRule:
    """The rule of a specification."""
    return KeepRule(spec.keep_checkpoints, spec.keep_best_checkpoint, spec.keep_checkpoint_every_steps)


def write_checkpoint(
    folder: Path,
    content: dict[str, Any],
    fill: Callable[[Path], None],
    *,
    step: int,
    identity: dict[str, Any],
    keep: KeepRule,
    eval_loss: float | None = None,
) -> Path:
    """Writes `folder`/step-NNNNNNNN whole: what `fill` writes, and a state of `content`. Then deletes what the rule
    does not keep. `identity` is what must be the same for a run to go on from here, `eval_loss` the loss on the
    held-out samples at this very step. One of this run and step that is there stays, unless it owes the measurement
    that this one has (`owes_evaluation` in its content).

    Raises `DiskTroubleError`; what was there before still is.
    """
    target = folder / f"{_PREFIX}{step:08d}"
    if _is_of_run(target, identity) and not (_owes(read_state(target)) and not _owes(content)):
        # The same step of the same run again, after a resume: replacing it could only lose it.
        return target

    def fill_all(building: Path) -> None:
        fill(building)
        write_json(building / _STATE, {"step": step, "identity": identity, "eval_loss": eval_loss, **content})

    write_folder(target, fill_all)
    found = dict(_numbered(folder))
    kept = keep.kept({number: _eval_loss(path) for number, path in found.items()})
    for number, old in found.items():
        if number not in kept:
            shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Path | None, list[Path]]:
    """(the newest whole checkpoint, newer ones that are damaged). Raises `CheckpointMismatchError` when it belongs
    to another run."""
    undo_broken_replacements(folder, _PREFIX)
    damaged = []
    for _, candidate in _numbered(folder):
        if not is_whole(candidate):
            damaged.append(candidate)
            continue
        saved = read_state(candidate)["identity"]
        saved = _in_present_terms(saved, identity)
        if saved != identity:
            changed = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
            raise CheckpointMismatchError(f"{candidate} was saved by a run with another {', '.join(changed)}")
        return candidate, damaged
    return None, damaged


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The `content` of a checkpoint, its `step` and `identity` included."""
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_bytes())
    return state


def _is_of_run(checkpoint: Path, identity: dict[str, Any]) -> bool:
    if not is_whole(checkpoint):
        return False
    saved = read_state(checkpoint).get("identity")
    return isinstance(saved, dict) and _in_present_terms(saved, identity) == identity


def _owes(content: Mapping[str, Any]) -> bool:
    return bool(content.get("owes_evaluation"))


def _in_present_terms(saved: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
    """`saved` as this version would have written it: what its specification does not say did not exist then, so that
    the run was made with what is the default now."""
    saved = {name: identity[name] for name in _LATER if name in identity} | saved
    if not isinstance(saved.get("specification"), dict) or "specification" not in identity:
        return saved
    filled = _filled(saved["specification"], identity["specification"], TrainingSpec().to_dict())
    return {**saved, "specification": filled}


def _filled(saved: dict[str, Any], present: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    missing = {name: defaults[name] for name in present if name not in saved and name in defaults}
    nested = {
        name: _filled(value, present[name], defaults[name])
        for name, value in saved.items()
        if isinstance(value, dict) and isinstance(present.get(name), dict) and isinstance(defaults.get(name), dict)
    }
    return {**saved, **missing, **nested}


def _eval_loss(checkpoint: Path) -> float | None:
    try:
        loss = read_state(checkpoint).get("eval_loss")
    except (OSError, ValueError):  # damaged: it is kept or not by its step
        return None
    return float(loss) if isinstance(loss, int | float) else None


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Checkpoints by name, newest first."""
    found = [
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in folder.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit() and path.is_dir()
    ]
    yield from sorted(found, reverse=True)
