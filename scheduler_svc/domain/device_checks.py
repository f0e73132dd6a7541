"""What only some kinds of hardware can do."""

from __future__ import annotations

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.job import DeviceClass
from scheduler_svc.domain.parameters import Optimizer, TrainingParameters

_PAGED = {Optimizer.PAGED_ADAMW: Optimizer.ADAMW, Optimizer.PAGED_ADAMW_8BIT: Optimizer.ADAMW_8BIT}


def check_device_options(parameters: TrainingParameters, device_class: DeviceClass) -> None:
    """Raises InvalidField for an option that devices of the class do not have."""
    instead = _PAGED.get(parameters.optimization.optimizer)
    if instead is None or device_class is DeviceClass.CUDA:
        return
    why = (
        "a Jetson has one memory, so there is nothing to page to"
        if device_class is DeviceClass.JETSON
        else "paging is NVIDIA's, and elsewhere the optimizer would be an ordinary one without a word"
    )
    raise InvalidField(
        "parameters.optimization.optimizer",
        f"{parameters.optimization.optimizer} runs on the device class CUDA only: {why}; "
        f"set device_class to CUDA, or use {instead}",
    )
