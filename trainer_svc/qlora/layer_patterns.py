"""Ranks and scales of their own for the layers whose names fit a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from peft import LoraConfig

from trainer_svc.qlora.spec import LoraSpec, SpecError


def apply(config: LoraConfig, lora: LoraSpec, modules: Iterable[str]) -> None:
    """Writes what `lora.layer_patterns` say into `config`, whose `target_modules` say which of `modules` are adapted.

    Raises `SpecError` for a pattern that fits no adapted layer: peft would take it without a word.
    """
    if not lora.layer_patterns:
        return
    layers = [name for name in modules if re.fullmatch(config.target_modules, name)]
    for index, each in enumerate(lora.layer_patterns):
        fitting = [name for name in layers if fnmatchcase(name, each.pattern)]
        if not fitting:
            raise SpecError(
                f"lora.layer_patterns[{index}]",
                f"{each.pattern!r} fits none of the {len(layers)} adapted layers",
                f"write it for their full names, such as {layers[0]}; `*` stands for any characters",
            )
        for name in fitting:
            # peft matches at the end of a name, unless the pattern says where the name begins; of several, the first.
            key = f"^{re.escape(name)}"
            if key not in config.rank_pattern:
                config.rank_pattern[key] = each.rank or lora.rank
                config.alpha_pattern[key] = each.alpha or lora.alpha
