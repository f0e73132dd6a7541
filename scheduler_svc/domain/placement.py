"""Which trainer can hold which job, and what to say when none can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.domain.base_sharing import want_whole_layers
from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.ids import WorkerId
from scheduler_svc.domain.job import DeviceClass, Needs, Recipe
from scheduler_svc.domain.parameters import BaseSharing, TrainingParameters

_GB = 10**9


@dataclass(frozen=True, slots=True)
class Ability:
    """What a trainer can do: two of the same ability can hold the same jobs."""

    device_class: DeviceClass
    device_count: int = 1
    memory_bytes: int = 0
    """Of each device."""
    can_train_4bit: bool = False
    recipes: frozenset[Recipe] = frozenset({Recipe.QLORA})


@dataclass(frozen=True, slots=True)
class Offer:
    """A trainer that takes jobs."""

    worker_id: WorkerId
    name: str
    ability: Ability


def fits(needs: Needs, ability: Ability) -> bool:
    """Tells whether a trainer of that ability can hold a job with those needs."""
    return (
        needs.recipe in ability.recipes
        and needs.device_class in (DeviceClass.ANY, ability.device_class)
        and needs.device_count <= ability.device_count
        and needs.device_memory_bytes <= ability.memory_bytes
        and (ability.can_train_4bit or not needs.is_4bit)
    )


def check_devices(needs: Needs, parameters: TrainingParameters) -> None:
    """Every device learns from a share of each step, and may hold but a share of the base.

    Raises:
        InvalidField: a step has fewer samples than there are devices, or the base cannot be shared out among them.
    """
    optimization = parameters.optimization
    samples = optimization.batch_size * optimization.gradient_accumulation_steps
    if needs.recipe is Recipe.QLORA and needs.device_count > samples:
        raise InvalidField(
            "device_count",
            f"is more than the {samples} samples of a step (batch_size x gradient_accumulation_steps), of which every "
            "device needs one: ask for fewer devices, or raise one of the two",
        )
    if parameters.base_sharing is BaseSharing.ON:
        for name, why in want_whole_layers(parameters).items():
            raise InvalidField(
                "parameters.base_sharing", f"cannot go together with {name}, which {why}: leave out one of them"
            )


def describe_misfit(needs: Needs, offers: Sequence[Offer]) -> str:
    """Returns what a job needs, and what the trainer has that comes nearest; some offers must be given."""
    nearest = min(offers, key=lambda offer: _distance(needs, offer))
    if fits(needs, nearest.ability):
        return "every trainer that could hold it has tried and reported DEVICE_UNFIT; it starts once another one joins"
    return (
        f"it needs {_needed(needs)}; what comes nearest, trainer {nearest.name}, has {_offered(needs, nearest.ability)}"
    )


def _distance(needs: Needs, offer: Offer) -> tuple[int, int, int, str]:
    ability = offer.ability
    missing = (
        needs.recipe not in ability.recipes,
        needs.device_class not in (DeviceClass.ANY, ability.device_class),
        needs.device_count > ability.device_count,
        needs.device_memory_bytes > ability.memory_bytes,
        needs.is_4bit and not ability.can_train_4bit,
    )
    return sum(missing), -ability.memory_bytes, -ability.device_count, offer.name


def _needed(needs: Needs) -> str:
    text = _devices(needs.device_count, needs.device_class)
    if needs.device_memory_bytes:
        text += f" of at least {needs.device_memory_bytes / _GB:.1f} GB"
    if needs.is_4bit:
        text += " with 4-bit training"
    return text if needs.recipe is Recipe.QLORA else f"{text} and a trainer started for {needs.recipe.lower()}s"


def _offered(needs: Needs, ability: Ability) -> str:
    text = f"{_devices(ability.device_count, ability.device_class)} of {ability.memory_bytes / _GB:.1f} GB"
    if needs.is_4bit and not ability.can_train_4bit:
        text += " without 4-bit training"
    return text if needs.recipe in ability.recipes else f"{text} and was not started for {needs.recipe.lower()}s"


def _devices(count: int, device_class: DeviceClass) -> str:
    kind = "" if device_class is DeviceClass.ANY else f"{device_class} "
    return f"{count} {kind}{'device' if count == 1 else 'devices'}"
