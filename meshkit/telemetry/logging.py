"""Structured logs: an event name and fields; secrets never pass."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from meshkit.settings import LogFormat, LogLevel

REDACTED = "[redacted]"
_SECRET_KEY = re.compile(
    r"password|passwd|secret|authorization|cookie|credential|private_key|api_key|access_key|dsn$|(^|_)(token|jwt|signature)$",
    re.IGNORECASE,
)
# What may hide inside any text: signed URLs, tokens, and the password of a connection string.
_SECRET_TEXT = (
    (re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{REDACTED}"),
    (re.compile(r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"), REDACTED),
    (re.compile(r"(://[^/\s:@]+:)[^@\s/]+@"), rf"\1{REDACTED}@"),
)
_MAX_DEPTH = 6


def configure_logging(service: str, log_format: LogFormat = "json", level: LogLevel = "info") -> None:
    """Sends structlog and the standard library's logging to stdout as one stream of events, redacted."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_service(service),
    ]
    # Traces become text before redaction: what an exception quotes is redacted too.
    ending: list[Any] = [structlog.processors.format_exc_info, redact]
    renderer: Any = _render_json if log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    structlog.configure(
        processors=[*shared, *ending, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


class _Lines:
    """Writes each event to what is stdout then, also after somebody has redirected it.

    Where that is a full disk, or a pipe that nobody reads any more, lines are lost: they must not take along the work
    that they tell of.
    """

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.write(f"{message}\n")
            sys.stdout.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = msg


_JSON = json.JSONEncoder(default=str)


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    # One encoder for all lines: `json.dumps` with options makes one for each.
    return _JSON.encode(event)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces the values of secret-looking keys, and secrets inside texts, at any depth."""
    for key, value in event.items():
        event[key] = _redacted(key, value, 0)
    return event


def _redacted(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _is_secret(key):
        return REDACTED
    if depth >= _MAX_DEPTH:
        return REDACTED
    if isinstance(value, str):
        return _redacted_text(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {name: _redacted(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item, depth + 1) for item in value]
    return _redacted_text(str(value))


@functools.lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _redacted_text(text: str) -> str:
    # Nearly all texts are harmless: a quick look for what each pattern needs spares them the careful ones.
    lowered = text.lower()
    if not ("://" in lowered or "eyj" in lowered or "bearer" in lowered or "x-amz-" in lowered):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _add_service(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add
