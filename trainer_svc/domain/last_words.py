"""The last lines a dead process wrote, made fit for its job's owner."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_SECRETS = (
    (re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"), r"\1…"),
    (re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1…"),
    (re.compile(r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"), "…"),
    (re.compile(r"(?i)((?:password|secret|token|api_key)\s*[=:]\s*)\S+"), r"\1…"),
)
_ABSOLUTE_PATH = re.compile(r"(?<![\w<>.:/])/(?:[\w.+@-]+/)+([\w.+@-]+)")


def last_words(lines: Iterable[str], names: Mapping[str, str], *, limit: int = 600) -> str:
    """The end of `lines` in at most `limit` characters, without secrets or this machine's paths.

    `names` says what to call folders instead of their paths, for instance `{"/data/jobs/j1": "<job>"}`.
    """
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    for path, name in sorted(names.items(), key=lambda entry: -len(entry[0])):
        text = text.replace(path, name)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = _ABSOLUTE_PATH.sub(r"\1", text)
    return text if len(text) <= limit else "…" + text[-limit + 1 :]
