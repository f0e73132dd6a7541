"""A rank that others have started: `torchrun`, or whatever sets the same variables. Imports no training library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer_svc.qlora.spec import SpecError, TrainingSpec

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class LaunchedRank:
    """This process among those that were started together (torch.distributed.run, "Environment Variables")."""

    rank: int
    local_rank: int
    """Which of its machine's devices it takes."""
    count: int

    @classmethod
    def found(cls, environment: Mapping[str, str]) -> LaunchedRank | None:
        """None where there is none, or it is alone. Raises `SpecError` for variables that say nothing sensible."""
        if any(name not in environment for name in _VARIABLES):
            return None
        said = {name: environment[name] for name in _VARIABLES[:3]}
        if not all(value.isdecimal() for value in said.values()) or int(said["RANK"]) >= int(said["WORLD_SIZE"]):
            words = ", ".join(f"{name}={value!r}" for name, value in said.items())
            raise SpecError("environment", f"{words} name no rank", "start the ranks by torchrun, or unset these")
        launched = cls(int(said["RANK"]), int(said["LOCAL_RANK"]), int(said["WORLD_SIZE"]))
        return launched if launched.count > 1 else None

    def fit(self, spec: TrainingSpec) -> TrainingSpec:
        """The specification for so many ranks. Raises `SpecError` when it asks for another number."""
        if spec.runtime.devices not in (1, self.count):
            raise SpecError(
                "runtime.devices",
                f"is {spec.runtime.devices}, and {self.count} ranks were started",
                "leave it out: under torchrun --nproc-per-node decides",
            )
        return replace(spec, runtime=replace(spec.runtime, devices=self.count)).validate()
