"""Training parameters as a request gives them."""

from __future__ import annotations

from functools import cached_property

from scheduler_svc.domain.parameters import Given, TrainingParameters, resolve_parameters


class AskedParameters:
    """What a request says of its parameters; what follows from it is found out once for all who ask for the same."""

    def __init__(self, given: Given) -> None:
        """`given` is not to be changed any more."""
        self.given = given

    @cached_property
    def resolved(self) -> TrainingParameters:
        """The parameters in force, before model and dataset are known. Raises InvalidField, as `resolve_parameters`."""
        return resolve_parameters(self.given)
