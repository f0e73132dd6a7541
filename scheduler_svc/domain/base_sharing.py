"""What a base that is shared out over the devices of a job cannot go together with."""

from __future__ import annotations

from scheduler_svc.domain.parameters import TrainingParameters
from scheduler_svc.domain.training_options import LoraInitialization


def want_whole_layers(parameters: TrainingParameters) -> dict[str, str]:
    """Returns the options asked for that need whole layers, each with why."""
    lora = parameters.lora
    options = (
        ("lora.rank_allocation", lora.rank_allocation is not None, "puts another adapter in"),
        (
            "lora.initialization",
            lora.initialization is not LoraInitialization.DEFAULT,
            "begins with what whole layers hold or are given",
        ),
        ("lora.use_dora", lora.use_dora, "measures the weights of whole layers"),
        ("sample_predictions", parameters.sample_predictions is not None, "generates with whole layers"),
    )
    return {name: why for name, is_asked, why in options if is_asked}
