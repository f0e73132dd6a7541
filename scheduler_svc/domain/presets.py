"""The sets of values that a job can start from: this is the one place that says what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_svc.domain.training_options import Preset

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PresetValues:
    """One preset."""

    description: str
    """For whom it is."""
    values: Values
    """By section and name, as a request would give them."""

    @property
    def names(self) -> tuple[str, ...]:
        """What it sets, as `lora.rank`."""
        return tuple(_dotted(self.values))


PRESETS: Mapping[Preset, PresetValues] = {
    Preset.FAST: PresetValues(
        "A first look: does the data teach anything at all? One pass over it, four small frames a clip.",
        {
            "lora": {"rank": 8, "alpha": 16.0},
            "sampling": {"max_frames": 4, "max_pixels": 224 * 224},
            "optimization": {"epochs": 1},
        },
    ),
    Preset.BALANCED: PresetValues(
        "For most jobs: the defaults, with the loss on held-out rows measured on the way.",
        {
            "lora": {"rank": 16, "alpha": 32.0},
            "sampling": {"max_frames": 8},
            "optimization": {"epochs": 3},
            "evaluate_every_steps": 50,
        },
    ),
    Preset.BEST: PresetValues(
        "When the adapter counts more than the hours: more frames, other ones in each epoch, and the adapter published "
        "that did best on held-out rows. Give it rows of the split `eval`.",
        {
            "lora": {"rank": 32, "alpha": 32.0, "use_rslora": True},
            "sampling": {"max_frames": 16, "placement": "SEGMENT_JITTER"},
            "optimization": {"learning_rate": 1e-4, "epochs": 8},
            "evaluate_every_steps": 50,
            "early_stopping": {"patience": 5},
            "sample_predictions": {"count": 2, "max_new_tokens": 64},
            "checkpoints": {"keep_best": True, "restore_best": True},
        },
    ),
    Preset.JETSON_8GB: PresetValues(
        "For boards with 8 GB for processor and device together: the tower in 4 bits too, one clip at a time, few "
        "small frames, 8-bit optimizer state. Choose a model of half a billion parameters or so.",
        {
            "lora": {"rank": 8, "alpha": 16.0},
            "quantization": {"quantize_vision": True},
            "sampling": {"max_frames": 4, "max_pixels": 224 * 224},
            "optimization": {
                "batch_size": 1,
                "gradient_accumulation_steps": 8,
                "epochs": 2,
                "optimizer": "ADAMW_8BIT",
                "gradient_checkpointing": True,
            },
        },
    ),
}
"""Quickest first."""


def with_preset(given: Values) -> Values:
    """Returns what a request says over the values of the preset that it names, if any."""
    if given.get("preset") is None:
        return given
    return _over(_without_rivals(PRESETS[Preset(given["preset"])].values, given), given)


def _over(below: Values, above: Values) -> dict[str, Any]:
    """`above` where it says something, section by section, else `below`."""
    merged = dict(below)
    for name, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
        merged[name] = _over(below[name], value) if nested else value
    return merged


def _without_rivals(values: Values, given: Values) -> Values:
    """What the request says drops whatever the preset sets that cannot go together with it."""
    rivals: set[str] = set()
    if given.get("optimization", {}).get("max_steps", 0):
        rivals.add("optimization.epochs")
    if given.get("evaluate_every_steps") == 0:
        rivals |= {"early_stopping", "checkpoints.restore_best", "checkpoints.keep_best"}
    quantises_nothing = given.get("quantization", {}).get("type") == "NONE"
    if quantises_nothing or "VISION" in given.get("lora", {}).get("target_groups", ()):
        rivals.add("quantization.quantize_vision")
    if given.get("base_sharing") == "ON":
        rivals.add("sample_predictions")
    return _without(values, rivals) if rivals else values


def _without(values: Values, names: Collection[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, names, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
        if f"{prefix}{name}" not in names
    }


def _dotted(values: Values, prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
