"""What a merge has made: the contract's `Merge`, and the same as the card of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from trainer_svc.qlora.after_training_spec import MergeSpec, MergeWeights
from trainer_svc.qlora.spec import QuantizationSpec

_WORDS = {
    MergeWeights.DEQUANTIZED: "the weights that it was trained on, expanded from 4 bits",
    MergeWeights.ORIGINAL: "the base model's own 16-bit weights",
}


class Layers(Protocol):
    """What became of the layers that were merged."""

    @property
    def layers(self) -> int: ...
    @property
    def update_error(self) -> float: ...


class Comparison(Protocol):
    """Means over tokens; see `merge_check.LogitComparison`."""

    @property
    def adapter_difference(self) -> float: ...
    @property
    def base_difference(self) -> float: ...
    @property
    def adapter_agreement(self) -> float: ...
    @property
    def base_agreement(self) -> float: ...
    @property
    def adapter_loss(self) -> float: ...
    @property
    def merged_loss(self) -> float: ...


def build_merge_report(
    wanted: MergeSpec, quantization: QuantizationSpec, merged: Layers, comparison: Comparison, rows: int
) -> dict[str, Any]:
    """The report, in the fields of the contract's `Merge`."""
    return {
        "weights": f"MERGE_WEIGHTS_{wanted.weights}",
        "layers": merged.layers,
        "update_error": merged.update_error,
        "rows": rows,
        "adapter_logit_difference": comparison.adapter_difference,
        "base_logit_difference": comparison.base_difference,
        "adapter_agreement": comparison.adapter_agreement,
        "base_agreement": comparison.base_agreement,
        "adapter_loss": comparison.adapter_loss,
        "merged_loss": comparison.merged_loss,
        "notes": _notes(wanted, quantization, merged, comparison),
    }


def merge_card(report: Mapping[str, Any]) -> str:
    """The model's README."""
    weights = MergeWeights(report["weights"].removeprefix("MERGE_WEIGHTS_"))
    facts = {
        "adapter merged into": _WORDS[weights],
        "type": "bfloat16",
        "layers changed": report["layers"],
        "error of the update": f"{report['update_error']:.4f}",
        "rows compared": report["rows"],
        "largest logit difference, mean over tokens: to the adapter": f"{report['adapter_logit_difference']:.4g}",
        "the same to the base model": f"{report['base_logit_difference']:.4g}",
        "same likeliest token as the adapter": f"{report['adapter_agreement']:.2%}",
        "as the base model": f"{report['base_agreement']:.2%}",
        "loss with the adapter": f"{report['adapter_loss']:.6g}",
        "loss merged": f"{report['merged_loss']:.6g}",
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    notes = "".join(f"- {note}\n" for note in report["notes"])
    return (
        "---\nlibrary_name: transformers\npipeline_tag: video-text-to-text\n---\n\n"
        f"# A base model with an adapter merged into it\n\n| | |\n|---|---|\n{rows}\n{notes}"
        "\n```python\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        "model = AutoModelForImageTextToText.from_pretrained(FOLDER)\n"
        "processor = AutoProcessor.from_pretrained(FOLDER)\n```\n"
    )


def _notes(wanted: MergeSpec, quantization: QuantizationSpec, merged: Layers, comparison: Comparison) -> list[str]:
    notes = []
    if quantization.bits != 4:
        notes.append("the adapter was trained on unquantised weights: both ways of merging are the same")
    elif wanted.weights is MergeWeights.ORIGINAL:
        notes.append(
            "the adapter was trained on 4-bit weights and has never seen those it is merged into: its layers differ "
            f"from those in training by {merged.update_error:.2f} of what was learned; evaluate it before you use it"
        )
    if comparison.base_difference <= 2 * comparison.adapter_difference:
        notes.append(
            "merged model and adapter differ by as much as the adapter changes: what was learned is hardly larger than "
            "the error of merging it"
        )
    if wanted.split == "train":
        notes.append("compared on rows of the split `train`, as the dataset holds none out")
    return notes
