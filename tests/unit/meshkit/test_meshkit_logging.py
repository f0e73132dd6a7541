"""Logs: one JSON object a line, and no secret in any of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from meshkit.telemetry.logging import configure_logging, redact

CANARY = "canary-5f2b9c"
JWT = f"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ{CANARY.replace('-', '_')}.c2lnbmF0dXJl"
URL = f"https://host/s3/data/clip?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={CANARY}&partNumber=1"


@pytest.mark.parametrize(
    "fields",
    [
        {"password": CANARY},
        {"new_password": CANARY},
        {"access_token": CANARY},
        {"refresh_token": CANARY},
        {"Authorization": f"Bearer {CANARY}"},
        {"client_secret": CANARY},
        {"postgres_dsn": f"postgresql://auth:{CANARY}@host/db"},
        {"metadata": {"authorization": CANARY}},
        {"users": [{"name": "a", "password": CANARY}]},
        {"url": URL},
        {"note": f"GET {URL} failed"},
        {"note": f"sent authorization: Bearer {CANARY}abc"},
        {"note": f"token {JWT} refused"},
        {"note": f"cannot connect to postgresql://auth:{CANARY}@127.0.0.1/db"},
        {"error": RuntimeError(f"could not open {URL}")},
        {"deep": {"a": {"b": {"c": {"d": {"e": {"f": {"g": CANARY}}}}}}}},
        {"body": CANARY.encode()},
    ],
)
def test_secrets_are_redacted(fields: dict[str, Any]) -> None:
    assert CANARY.replace("-", "_") not in (text := json.dumps(redact(None, "info", dict(fields)), default=str))
    assert CANARY not in text


def test_harmless_fields_are_kept() -> None:
    fields = {
        "job_id": "job_1",
        "tokens": 12,
        "page_token_used": True,
        "seconds": 0.5,
        "names": ["a", "b"],
        "none": None,
    }
    assert redact(None, "info", dict(fields)) == fields
    assert "partNumber=1" in redact(None, "info", {"url": URL})["url"]


def test_an_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("echo", "json")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger().info("job.claimed", job_id="job_1", attempt=2)
    structlog.get_logger().debug("not.shown")
    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "job.claimed",
        "level": "info",
        "service": "echo",
        "request_id": "req_1",
        "job_id": "job_1",
        "attempt": 2,
    }


def test_what_an_exception_quotes_is_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("echo", "json")
    try:
        raise ConnectionError(f"postgresql://auth:{CANARY}@127.0.0.1/db refused")
    except ConnectionError:
        structlog.get_logger().exception("rpc.crashed")
    out = capsys.readouterr().out
    assert CANARY not in out
    assert "ConnectionError" in json.loads(out)["exception"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_standard_library_logs_the_same_way(capsys: pytest.CaptureFixture[str], log_format: Any) -> None:
    configure_logging("echo", log_format)
    logging.getLogger("some.library").warning("opened %s", URL)
    logging.getLogger("some.library").info("chatter")
    out = capsys.readouterr().out
    assert CANARY not in out
    assert "opened" in out
    assert "chatter" not in out


def test_a_full_disk_loses_lines_and_not_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        configure_logging("echo")
        structlog.get_logger().info("job.claimed", job_id="job_1")
        logging.getLogger("asyncio").warning("slow")
        # What is left in the buffer would be tried again when the file is closed.
        with contextlib.suppress(OSError):
            full.close()
    monkeypatch.undo()
    structlog.get_logger().info("job.ended", job_id="job_2")
    out = capsys.readouterr().out
    assert "job.ended" in out, "what comes later is told where there is room"
    assert "job.claimed" not in out


async def test_lines_of_one_turn_of_the_loop_keep_their_order_and_all_come_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("echo")
    logger = structlog.get_logger()
    for number in range(3):
        logger.info("job.claimed", number=number)
    logger.warning("job.lost", number=3)
    # A warning waits for nothing, and what was said before it comes before it.
    assert [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == [0, 1, 2, 3]
    logger.info("job.claimed", number=4)
    await asyncio.to_thread(logger.info, "job.claimed", number=5)
    assert [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == [4, 5]


def test_a_line_that_its_loop_left_behind_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("echo")

    async def say(number: int) -> None:
        structlog.get_logger().info("job.claimed", number=number)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(say(0))
    loop.close()
    structlog.get_logger().info("service.stopped", number=1)
    asyncio.run(say(2))
    assert [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()] == [0, 1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"job_id": "job_1", "attempt": 2, "seconds": 0.5, "done": True, "none": None},
        {"name": "Küche \N{GRINNING FACE}"},
        {"size": 2**70},
        {"path": Path("/tmp/a"), "names": ["a", "b"], "counts": {"a": 1}},
        {"note": f"token {JWT} refused", "password": CANARY},
        {"Authorization": f"Bearer {CANARY}"},
        {"note": 'a quote " and \x00 a NUL'},
    ],
)
def test_a_line_says_what_redaction_leaves(fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("echo")
    structlog.get_logger().info("some.event", **fields)
    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert line.isascii()
    assert {name: event[name] for name in fields} == json.loads(json.dumps(redact(None, "info", dict(fields))))
