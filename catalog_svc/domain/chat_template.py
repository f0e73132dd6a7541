"""What a model folder says of its chat template. Pure; no template is ever rendered here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
OLD_TEMPLATE_FILE = "chat_template.json"
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class ChatTemplateFacts:
    """Whether there is a template, and whether it marks what the assistant says."""

    is_present: bool = False
    has_generation_marks: bool = False


def chat_template_facts(template_file: str | None, parsed: Mapping[str, Any]) -> ChatTemplateFacts:
    """Reads them from the template's own file, or else from the JSON files that may hold one (by path)."""
    for text in (template_file, *(_template(parsed.get(path)) for path in (OLD_TEMPLATE_FILE, TOKENIZER_CONFIG))):
        if text:
            return ChatTemplateFacts(True, _MARK.search(text) is not None)
    return ChatTemplateFacts()


def _template(config: Any) -> str | None:
    value = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(value, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
