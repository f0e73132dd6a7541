"""The adapter's README: what it is, what it was trained on and how, how well it does, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = """---
library_name: peft
pipeline_tag: video-text-to-text
tags:
- qlora
- {model_type}
---

# LoRA adapter for a {model_type} model

| | |
|---|---|
"""
_STOCK = """
## Loading it

Any PEFT loads it onto its base model, quantised as below:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

base = AutoModelForImageTextToText.from_pretrained(BASE_MODEL{quantization})
model = PeftModel.from_pretrained(base, ADAPTER)
```
"""
_PLUGIN = """
## Loading it

It needs the plugin `{name}` of Reeltune: plain PEFT would load it without a word and drop a part of it.
`python -m trainer_svc.qlora.static_export` writes what is left of it as plain LoRA.
"""


def adapter_card(sidecar: Mapping[str, Any]) -> str:
    """Markdown, from what `reeltune_adapter.json` says."""
    base, training, plugin = sidecar["base"], sidecar["training"], sidecar["plugin"]
    facts = {
        "base model": f"{base['model_type']}, `{base['fingerprint']}`",
        "base model held in": _held_in(sidecar["quantization"]),
        **{name.replace("_", " "): _shown(value) for name, value in training.items()},
    }
    settings = {
        f"{section}.{name}": value
        for section in ("lora", "sampling", "optimization")
        for name, value in sidecar["spec"][section].items()
    }
    loading = _PLUGIN.format(name=plugin["name"]) if plugin else _STOCK.format(quantization=_loaded_as(sidecar))
    versions = ", ".join(f"{name} {number}" for name, number in sidecar["versions"].items())
    return (
        _HEAD.format(model_type=base["model_type"])
        + _rows(facts)
        + loading
        + "\n## Settings\n\n| | |\n|---|---|\n"
        + _rows({f"`{name}`": _shown(value) for name, value in settings.items()})
        + f"\nMade with {versions}.\n"
    )


def _held_in(quantization: Mapping[str, Any]) -> str:
    if quantization["scheme"] == "none":
        return str(quantization["compute_dtype"])
    double = ", double-quantised" if quantization["double_quantization"] else ""
    return f"{quantization['scheme'].upper()}{double}; computed in {quantization['compute_dtype']}"


def _loaded_as(sidecar: Mapping[str, Any]) -> str:
    quantization = sidecar["quantization"]
    if quantization["scheme"] == "none":
        return ""
    skipped = ", ".join(f'"{name}"' for name in quantization["skipped_modules"])
    return (
        ", quantization_config=BitsAndBytesConfig(\n"
        f'    load_in_4bit=True, bnb_4bit_quant_type="{quantization["scheme"]}",\n'
        f"    bnb_4bit_use_double_quant={quantization['double_quantization']},\n"
        f"    llm_int8_skip_modules=[{skipped}],\n)"
    )


def _rows(values: Mapping[str, str]) -> str:
    return "".join(f"| {name} | {value} |\n" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
