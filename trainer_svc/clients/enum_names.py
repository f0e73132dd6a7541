"""Enum values of the contract as the training library names them; a value of a newer contract is never taken for
another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from trainer_svc.domain.errors import DeviceUnfitError

T = TypeVar("T")


def names_of(enum: Any, *, unspecified: str | None = None) -> dict[int, str]:
    """The names of a generated enum's values, in small letters and without their prefix.

    `unspecified` is what value 0 means; without it there is none of value 0.
    """
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    names = {value: name.removeprefix(prefix).lower() for name, value in enum.items() if value}
    return names if unspecified is None else {0: unspecified, **names}


def known(table: Mapping[int, T], value: int, field: str) -> T:
    """What `table` has for `value`.

    Raises:
        DeviceUnfitError: nothing, as whoever sent it knows values of `field` that this trainer does not.
    """
    try:
        return table[value]
    except KeyError as error:
        raise DeviceUnfitError(
            f"this trainer does not know value {value} of {field}, which is of a newer contract: upgrade the trainer"
        ) from error
