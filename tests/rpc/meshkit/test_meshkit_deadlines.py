"""Deadlines, request ids, health, limits: what every call and every server has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from meshkit.ids import is_id
from meshkit.rpc.client import open_channel
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.request_context import begin_request, set_deadline
from meshkit.rpc.server import build_server
from meshkit.settings import ServiceSettings
from meshkit.testing import TokenMint, assert_eventually
from meshkit.testing.plugin import Serve
from tests.rpc.meshkit.echo_service import SERVICE, Echo, EchoServicer, failure_of

DOWN = f"/{SERVICE}/Down"


async def _read_all(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_the_server_caps_a_long_or_missing_deadline(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)], settings=ServiceSettings(unary_deadline_seconds=0.3))
    # A bare channel: without our client's default deadline.
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub = echo.stub(channel)
        for timeout in (None, 60):
            start = time.monotonic()
            request = echo.pb.UnaryRequest(word=echo.word("x"), trouble="slow")
            failure = await failure_of(stub.Unary(request, metadata=token_mint.user(), timeout=timeout))
            assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
            assert 0.25 < time.monotonic() - start < 20
            assert servicer.cancelled.is_set()


async def test_an_unmarked_stream_is_capped_and_a_marked_one_is_not(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    settings = ServiceSettings(stream_deadline_seconds=0.3, unary_deadline_seconds=0.1)
    capped = await serve([echo.registration(servicer)], settings=settings)
    request = echo.pb.DownRequest(count=5, trouble="slow")
    failure = await failure_of(_read_all(echo.stub(capped.channel).Down(request, metadata=token_mint.user())))
    assert failure.reason == "DEADLINE_EXCEEDED"
    long = await serve([echo.registration(servicer)], settings=settings, long_rpcs=frozenset({DOWN}))
    call = echo.stub(long.channel).Down(request, metadata=token_mint.user())
    assert [(await call.read()).number for _ in range(2)] == [0, 1]
    third = asyncio.create_task(call.read())
    done, _ = await asyncio.wait({third}, timeout=0.8)
    assert not done
    call.cancel()
    await asyncio.gather(third, return_exceptions=True)


async def test_a_request_stream_that_stalls_is_capped(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)], settings=ServiceSettings(stream_deadline_seconds=0.3))

    is_over = asyncio.Event()

    async def stalling() -> Any:
        yield echo.pb.UpRequest(word=echo.word("x"))
        await is_over.wait()

    failure = await failure_of(echo.stub(served.channel).Up(stalling(), metadata=token_mint.user()))
    assert failure.reason == "DEADLINE_EXCEEDED"
    is_over.set()


def test_a_misspelt_long_rpc_stops_the_build(echo: Echo, servicer: EchoServicer, token_mint: TokenMint) -> None:
    for name in (f"/{SERVICE}/Dwon", f"/{SERVICE}/Unary"):
        with pytest.raises(ValueError, match=name):
            build_server(
                ServiceSettings(),
                [echo.registration(servicer)],
                error_table={},
                verifier=token_mint.verifier,
                long_rpcs=frozenset({name}),
            )


async def test_the_next_hop_sees_the_remaining_time_and_the_request_id(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    back = await serve([echo.registration(servicer)])
    front = await serve([echo.registration(EchoServicer(echo, downstream=echo.stub(back.channel)))])
    request = echo.pb.UnaryRequest(word=echo.word("x"), trouble="downstream")
    metadata = (*token_mint.user("usr_7"), ("x-request-id", "from-the-client"))
    answer = await echo.stub(front.channel).Unary(request, metadata=metadata, timeout=60)
    assert (answer.caller, answer.request_id) == ("usr_7", "from-the-client")
    assert 0 < answer.remaining_seconds < 20.1  # grpc rounds the time on the wire up


async def test_a_dead_next_hop_is_unavailable_with_a_hint(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    back = await serve([echo.registration(servicer)])
    front = await serve([echo.registration(EchoServicer(echo, downstream=echo.stub(back.channel)))])
    await back.bound.server.stop(None)
    request = echo.pb.UnaryRequest(word=echo.word("x"), trouble="downstream")
    failure = await failure_of(echo.stub(front.channel).Unary(request, metadata=token_mint.user()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert failure.retry_after is not None


async def test_a_refusal_of_the_next_hop_does_not_become_the_callers(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    other = TokenMint()
    back = await serve([echo.registration(servicer)], verifier=other.verifier)
    front = await serve([echo.registration(EchoServicer(echo, downstream=echo.stub(back.channel)))])
    request = echo.pb.UnaryRequest(word=echo.word("x"), trouble="downstream")
    failure = await failure_of(echo.stub(front.channel).Unary(request, metadata=token_mint.user()))
    assert failure.reason == "INTERNAL"


async def test_the_client_sets_a_deadline_and_shortens_it_to_what_is_left(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)])
    async with open_channel(served.address, default_deadline_seconds=0.3) as channel:
        stub = echo.stub(channel)
        slow = echo.pb.UnaryRequest(word=echo.word("x"), trouble="slow")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Unary(slow, metadata=token_mint.user())
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def inside_an_rpc() -> float:
        begin_request(None)
        set_deadline(2)
        request = echo.pb.UnaryRequest(word=echo.word("x"))
        answer = await echo.stub(served.channel).Unary(request, metadata=token_mint.user())
        return float(answer.remaining_seconds)

    # In a task of its own: its context does not leak into this test's.
    assert 0 < await asyncio.create_task(inside_an_rpc()) < 2.1


@pytest.mark.parametrize("offered", ["a b", "x" * 65, "ümlaut", 'quote"', ""])
async def test_an_odd_request_id_is_replaced(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint, offered: str
) -> None:
    served = await serve([echo.registration(servicer)])
    call = echo.stub(served.channel).Unary(
        echo.pb.UnaryRequest(word=echo.word("x")),
        metadata=(*token_mint.user(), ("x-request-id", offered.encode("ascii", "replace").decode() or " ")),
    )
    answer = await call
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-request-id"] == answer.request_id
    assert is_id(answer.request_id, "req")


async def test_concurrent_calls_keep_their_own_context(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)])
    stub = echo.stub(served.channel)

    async def call(number: int) -> None:
        request = echo.pb.DownRequest(count=20)
        messages = await _read_all(stub.Down(request, metadata=token_mint.user(f"usr_{number}")))
        assert {message.caller for message in messages} == {f"usr_{number}"}

    await asyncio.gather(*(call(number) for number in range(30)))


async def test_health_is_public_and_knows_each_service(serve: Serve, echo: Echo, servicer: EchoServicer) -> None:
    served = await serve([echo.registration(servicer)])
    stub = health_pb2_grpc.HealthStub(served.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await served.bound.health.enter_graceful_shutdown()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_reflection_is_served_where_it_is_switched_on(serve: Serve, echo: Echo, servicer: EchoServicer) -> None:
    async def names(settings: ServiceSettings) -> set[str]:
        served = await serve([echo.registration(servicer)], settings=settings)
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = await _read_all(stub.ServerReflectionInfo(iter([request])))
        return {service.name for service in answers[0].list_services_response.service}

    assert SERVICE in await names(ServiceSettings(reflection=True))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await names(ServiceSettings(reflection=False))
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_too_large_messages_are_refused(
    serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint
) -> None:
    served = await serve([echo.registration(servicer)], settings=ServiceSettings(max_message_bytes=64 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await echo.stub(served.channel).Open(echo.pb.OpenRequest(text="x" * 100_000))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_taken_port_is_named(serve: Serve, echo: Echo, servicer: EchoServicer, token_mint: TokenMint) -> None:
    served = await serve([echo.registration(servicer)])
    with pytest.raises(OSError, match=str(served.bound.port)):
        await serve([echo.registration(servicer)], settings=ServiceSettings(port=served.bound.port))


async def test_metrics_count_what_happened(echo: Echo, servicer: EchoServicer, token_mint: TokenMint) -> None:
    registry = CollectorRegistry()
    bound = build_server(
        ServiceSettings(),
        [ServicerRegistration(echo.grpc.add_EchoServiceServicer_to_server, servicer)],
        error_table={},
        verifier=token_mint.verifier,
        metrics=registry,
    )
    await bound.server.start()

    def handled(rpc: str, code: str) -> float:
        return registry.get_sample_value("rpc_server_handled_total", {"rpc": rpc, "code": code}) or 0

    try:
        async with open_channel(f"127.0.0.1:{bound.port}") as channel:
            stub = echo.stub(channel)
            request = echo.pb.UnaryRequest(word=echo.word("x"))
            await stub.Unary(request, metadata=token_mint.user())
            await failure_of(stub.Unary(request))
            await failure_of(channel.unary_unary("/made.up/Name")(b""))
            await _read_all(stub.Down(echo.pb.DownRequest(count=1), metadata=token_mint.user()))
            cancelled = stub.Down(echo.pb.DownRequest(count=5, trouble="slow"), metadata=token_mint.user())
            await cancelled.read()
            cancelled.cancel()
            await assert_eventually(lambda: handled(DOWN, "CANCELLED") == 1)
    finally:
        await bound.server.stop(None)
    assert handled(f"/{SERVICE}/Unary", "OK") == 1
    assert handled(f"/{SERVICE}/Unary", "UNAUTHENTICATED") == 1
    assert handled("unknown", "UNIMPLEMENTED") == 1
    assert handled(DOWN, "OK") == 1
    assert registry.get_sample_value("rpc_server_in_flight", {"rpc": DOWN}) == 0
    assert registry.get_sample_value("rpc_server_handling_seconds_count", {"rpc": DOWN}) == 2
