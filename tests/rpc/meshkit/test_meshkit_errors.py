"""Errors and validation, for every kind of rpc, through a real channel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import pytest

from meshkit.telemetry.logging import configure_logging
from meshkit.testing import TokenMint, assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.meshkit.echo_service import ERROR_TABLE, Echo, EchoServicer, failure_of

Call = Callable[[Any, Echo, str, str], Any]


async def _collect(call: Any) -> list[Any]:
    return [message async for message in call]


async def _as_stream(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def _unary(stub: Any, echo: Echo, word: str, trouble: str, metadata: Any) -> Any:
    return stub.Unary(echo.pb.UnaryRequest(word=echo.word(word), trouble=trouble), metadata=metadata)


def _down(stub: Any, echo: Echo, word: str, trouble: str, metadata: Any) -> Any:
    count = 5 if word else 5000
    return _collect(stub.Down(echo.pb.DownRequest(count=count, trouble=trouble), metadata=metadata))


def _both(stub: Any, echo: Echo, word: str, trouble: str, metadata: Any) -> Any:
    messages = [
        echo.pb.BothRequest(word=echo.word("first")),
        echo.pb.BothRequest(word=echo.word(word), trouble=trouble),
    ]
    return _collect(stub.Both(_as_stream(messages), metadata=metadata))


def _up(stub: Any, echo: Echo, word: str, trouble: str, metadata: Any) -> Any:
    messages = [echo.pb.UpRequest(word=echo.word("first")), echo.pb.UpRequest(word=echo.word(word))]
    return stub.Up(_as_stream(messages), metadata=metadata)


FAILING_KINDS = [_unary, _down, _both]
ALL_KINDS = [_unary, _down, _both, _up]


@pytest.fixture
async def stub(serve: Serve, echo: Echo, servicer: EchoServicer) -> Any:
    served = await serve([echo.registration(servicer)], error_table=ERROR_TABLE)
    return echo.stub(served.channel)


@pytest.mark.parametrize("kind", FAILING_KINDS)
async def test_a_domain_error_is_translated(stub: Any, echo: Echo, token_mint: TokenMint, kind: Any) -> None:
    failure = await failure_of(kind(stub, echo, "word", "domain", token_mint.user()))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (failure.reason, failure.message) == ("QUEUE_FULL", "the queue is full: main")
    assert failure.metadata == {"queue": "main"}
    assert failure.precondition_violations[0].type == "SPACE"


@pytest.mark.parametrize("trouble", ["unforeseen", "unrecognised", "own timeout"])
@pytest.mark.parametrize("kind", FAILING_KINDS)
async def test_an_unforeseen_error_leaves_only_a_request_id(
    stub: Any, echo: Echo, token_mint: TokenMint, kind: Any, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("test", "json")
    failure = await failure_of(kind(stub, echo, "word", trouble, token_mint.user()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    request_id = failure.metadata["request_id"]
    assert request_id in failure.message
    # The trace is in the log, under the same request id.
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    crashed = [event for event in events if event["event"] == "rpc.crashed"]
    assert crashed[0]["request_id"] == request_id
    assert "Traceback" in crashed[0]["exception"]


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_good_request_passes(stub: Any, echo: Echo, token_mint: TokenMint, kind: Any) -> None:
    assert await kind(stub, echo, "word", "", token_mint.user())


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_bad_field_is_named(stub: Any, echo: Echo, token_mint: TokenMint, kind: Any) -> None:
    failure = await failure_of(kind(stub, echo, "", "", token_mint.user()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    field = failure.field_violations[0].field
    assert field == ("count" if kind is _down else "word.text")
    assert failure.message.startswith(f"{field}: ")
    assert failure.metadata["field"] == field


async def test_paths_of_nested_fields(stub: Any, echo: Echo, token_mint: TokenMint) -> None:
    request = echo.pb.UnaryRequest(
        rows=[echo.pb.Row(clip="good"), echo.pb.Row(clip="BAD")], by_name={"key": echo.pb.Row(clip="BAD")}
    )
    failure = await failure_of(stub.Unary(request, metadata=token_mint.user()))
    assert [violation.field for violation in failure.field_violations] == [
        "word",
        "rows[1].clip",
        'by_name["key"].clip',
    ]
    assert "2 more" in failure.message


async def test_many_violations_still_fit_into_the_trailers(stub: Any, echo: Echo, token_mint: TokenMint) -> None:
    request = echo.pb.UnaryRequest(word=echo.word("x"), rows=[echo.pb.Row(clip="BAD")] * 5000)
    failure = await failure_of(stub.Unary(request, metadata=token_mint.user()))
    assert failure.field_violations[0].field == "rows[0].clip"
    assert "4999 more" in failure.message


async def test_bytes_that_are_no_message_are_refused(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)])
    for path, is_stream in (("Unary", False), ("Up", True)):
        method = f"/meshkit_test.v1.EchoService/{path}"
        call: Any = (
            served.channel.stream_unary(method)(_as_stream([b"\xff\xff"]), metadata=token_mint.user())
            if is_stream
            else served.channel.unary_unary(method)(b"\xff\xff", metadata=token_mint.user())
        )
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_UNREADABLE")


async def test_an_unknown_rpc_has_a_typed_error_too(serve: Serve, echo: Echo, servicer: EchoServicer) -> None:
    served = await serve([echo.registration(servicer)])
    for path in ("/meshkit_test.v1.EchoService/Nothing", "/no.Such/Rpc"):
        failure = await failure_of(served.channel.unary_unary(path)(b""))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "RPC_UNKNOWN")


async def test_an_abort_of_the_handler_passes_untouched(stub: Any, echo: Echo, token_mint: TokenMint) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _unary(stub, echo, "word", "abort", token_mint.user())
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "said by the handler itself")


async def test_cancelling_a_call_stops_its_work_and_is_no_error(
    stub: Any, echo: Echo, servicer: EchoServicer, token_mint: TokenMint, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("test", "json")
    metadata = (*token_mint.user(), ("x-request-id", "the-cancelled-one"))
    call = stub.Unary(echo.pb.UnaryRequest(word=echo.word("x"), trouble="slow"), metadata=metadata)
    reading = asyncio.create_task(_settled(call))
    await asyncio.wait_for(servicer.begun.wait(), 60)
    call.cancel()
    await asyncio.wait_for(servicer.cancelled.wait(), 60)
    await reading
    events: list[dict[str, Any]] = []

    def finished() -> list[dict[str, Any]]:
        events.extend(json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
        # Calls of the test before may finish late.
        ours = [event for event in events if event.get("request_id") == "the-cancelled-one"]
        return [event for event in ours if event["event"] == "rpc.finished"]

    assert (await assert_eventually(finished))[0]["code"] == "CANCELLED"
    assert not [event for event in events if event["level"] in ("error", "warning")]


async def test_a_reader_that_leaves_closes_the_stream(
    stub: Any, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    call = stub.Down(echo.pb.DownRequest(count=5, trouble="slow"), metadata=token_mint.user())
    assert (await call.read()).number == 0
    call.cancel()
    await asyncio.wait_for(servicer.closed.wait(), 60)


async def _settled(call: Any) -> None:
    try:
        await call
    except asyncio.CancelledError:
        return
