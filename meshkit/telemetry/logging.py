"""Structured logs: an event name and fields; secrets never pass."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import logging
import re
import sys
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import orjson
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
    ending: list[Any] = [structlog.processors.format_exc_info]
    if log_format == "json":
        ending.append(_render_redacted)
    else:
        ending += [redact, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _LINES,
        cache_logger_on_first_use=False,
    )
    bound_logger.cache_clear()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


@functools.cache
def bound_logger() -> Any:
    """Returns a logger for lines by the thousand: `structlog.get_logger()` finds out with each how to log."""
    return structlog.get_logger().bind()


class _Lines:
    """Writes each event to what is stdout then, also after somebody has redirected it.

    What an event loop says at ease goes out when the loop comes round, together: each write lets go of the
    interpreter, for which the threads of grpc wait. A warning goes out at once, behind what was said before it.
    Where stdout is a full disk, or a pipe that nobody reads any more, lines are lost: they must not take along the
    work that they tell of.
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Will write what waits."""
        atexit.register(self.flush)

    def say(self, message: str) -> None:
        """Writes a line soon."""
        self._waiting.append(message)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # none runs here
            self.flush()
            return
        if loop is not self._loop:
            self._loop = loop
            loop.call_soon(self.flush)

    def msg(self, message: str) -> None:
        """Writes a line now."""
        self._waiting.append(message)
        self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        self._loop = None
        lines: list[str] = []
        with contextlib.suppress(IndexError):  # empty
            while True:
                lines.append(f"{self._waiting.popleft()}\n")
        if lines:
            with contextlib.suppress(OSError):
                sys.stdout.write("".join(lines))
                sys.stdout.flush()

    debug = info = say
    log = warn = warning = error = critical = exception = fatal = failure = msg


_LINES = _Lines()
_JSON = json.JSONEncoder(default=str)
_PLAIN = frozenset({str, int, float, bool, type(None)})
_NEEDLES = ("://", "eyj", "bearer", "x-amz-")
"""In lower case; where none of them is, there is nothing that `_SECRET_TEXT` would find."""


def _render_redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """What `redact` leaves of an event, as JSON.

    Nearly all events are flat and harmless: of these the line as a whole is looked at, and not each text.
    """
    if all(type(value) in _PLAIN and not _is_secret(name) for name, value in event.items()):
        text = _json(event)
        if not _may_hide_secrets(text):
            return text
    return _json(redact(_logger, _method, event))


def _json(event: MutableMapping[str, Any]) -> str:
    try:
        text = orjson.dumps(event, default=str).decode()
    except TypeError:  # such as an integer of more than 64 bits
        return _JSON.encode(event)
    # What stdout is may know no other characters.
    return text if text.isascii() else _JSON.encode(event)


def _may_hide_secrets(text: str) -> bool:
    lowered = text.lower()
    return any(needle in lowered for needle in _NEEDLES)


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
    if not _may_hide_secrets(text):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _add_service(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add
