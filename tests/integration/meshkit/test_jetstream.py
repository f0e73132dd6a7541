"""Work queues against a real NATS, broker restarts included."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from meshkit.embedded import NatsServer, NatsUser
from meshkit.jetstream import (
    JetStream,
    Message,
    NatsUnavailable,
    connect,
    ensure_consumer,
    ensure_work_queue,
    publish,
    publish_all,
    pull,
)
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import NATS_USER


async def _queue(jetstream: JetStream) -> None:
    await ensure_work_queue(jetstream, "WORK", ["work.v1.>"], max_bytes=1024 * 1024)
    await ensure_consumer(jetstream, "WORK", "cpu", "work.v1.cpu")


async def _take(jetstream: JetStream, count: int, *, timeout: float = 20) -> list[str]:
    taken: list[str] = []
    async with asyncio.timeout(timeout), aclosing(pull(jetstream, "WORK", "cpu", timeout_seconds=1)) as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            taken.append(delivery.payload.decode())
            if len(taken) == count:
                break
    return taken


async def test_a_published_message_reaches_exactly_one_worker(jetstream: JetStream) -> None:
    await _queue(jetstream)
    for number in range(10):
        await publish(jetstream, "work.v1.cpu", str(number).encode(), msg_id=f"job:{number}")
    first, second = await asyncio.gather(_take(jetstream, 5), _take(jetstream, 5))
    assert sorted(first + second) == sorted(str(number) for number in range(10))
    info = await jetstream.context().stream_info("WORK")
    assert info.state.messages == 0


async def test_a_repeated_message_id_is_stored_once_and_a_new_one_again(jetstream: JetStream) -> None:
    await _queue(jetstream)
    for msg_id in ("job_1:1", "job_1:1", "job_1:2"):
        await publish(jetstream, "work.v1.cpu", msg_id.encode(), msg_id=msg_id)
    assert await _take(jetstream, 2) == ["job_1:1", "job_1:2"]
    assert (await jetstream.context().stream_info("WORK")).state.messages == 0


async def test_an_existing_stream_takes_the_new_configuration(jetstream: JetStream) -> None:
    await _queue(jetstream)
    await ensure_work_queue(jetstream, "WORK", ["work.v1.>"], max_bytes=2 * 1024 * 1024)
    info = await jetstream.context().stream_info("WORK")
    assert info.config.max_bytes == 2 * 1024 * 1024


async def test_a_full_queue_refuses_new_messages_and_keeps_the_old(jetstream: JetStream) -> None:
    await ensure_work_queue(jetstream, "WORK", ["work.v1.>"], max_bytes=8 * 1024)
    await ensure_consumer(jetstream, "WORK", "cpu", "work.v1.cpu")
    await publish(jetstream, "work.v1.cpu", b"a" * 4096, msg_id="first")
    with pytest.raises(NatsUnavailable):
        await publish(jetstream, "work.v1.cpu", b"b" * 8192, msg_id="second")
    assert await _take(jetstream, 1) == ["a" * 4096]


async def test_of_many_published_at_once_those_that_do_not_fit_are_told(jetstream: JetStream) -> None:
    await ensure_work_queue(jetstream, "WORK", ["work.v1.>"], max_bytes=8 * 1024)
    await ensure_consumer(jetstream, "WORK", "cpu", "work.v1.cpu")
    sizes = [1, 2, 9000, 3]
    messages = [Message("work.v1.cpu", b"a" * size, f"m:{size}") for size in sizes]
    messages.append(Message("nobody.takes.this", b"", "nobody"))
    outcomes = await publish_all(jetstream, messages)
    assert [outcome is None for outcome in outcomes] == [True, True, False, True, False]
    assert await _take(jetstream, 3) == ["a", "aa", "aaa"]
    assert await publish_all(jetstream, []) == []


async def test_connect_returns_at_once_without_a_broker_and_finds_it_later(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "late", [NATS_USER])
    jetstream = connect(server.url, user=NATS_USER.name, password=NATS_USER.password, name="early")
    try:
        with pytest.raises(NatsUnavailable):
            await publish(jetstream, "work.v1.cpu", b"x", msg_id="x")
        with pytest.raises(NatsUnavailable):
            await jetstream.wait_connected(0.1)
        await server.start()
        await jetstream.wait_connected(15)
        await _queue(jetstream)
    finally:
        await jetstream.close()
        await server.stop()


async def test_a_waiting_pull_survives_kill_9_of_the_broker(own_nats: NatsServer) -> None:
    jetstream = connect(own_nats.url, user=NATS_USER.name, password=NATS_USER.password, name="worker")
    try:
        await jetstream.wait_connected(10)
        await _queue(jetstream)
        await publish(jetstream, "work.v1.cpu", b"before", msg_id="1")
        deliveries = pull(jetstream, "WORK", "cpu", timeout_seconds=1)
        first = await anext(deliveries)
        await first.ack()
        waiting = asyncio.create_task(anext(deliveries))
        for round_number in range(3):
            generation = jetstream.generation
            await own_nats.kill()
            await assert_eventually(lambda: not jetstream.is_connected)
            await own_nats.start()
            await assert_eventually(lambda seen=generation: jetstream.generation > seen)
            await publish(jetstream, "work.v1.cpu", f"after {round_number}".encode(), msg_id=f"after:{round_number}")
            delivery = await asyncio.wait_for(waiting, 60)
            await delivery.ack()
            assert delivery.payload == f"after {round_number}".encode()
            waiting = asyncio.create_task(anext(deliveries))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await deliveries.aclose()
    finally:
        await jetstream.close()


async def test_acknowledged_messages_survive_kill_9_of_the_broker(own_nats: NatsServer) -> None:
    jetstream = connect(own_nats.url, user=NATS_USER.name, password=NATS_USER.password, name="publisher")
    try:
        await jetstream.wait_connected(10)
        await _queue(jetstream)
        for number in range(20):
            await publish(jetstream, "work.v1.cpu", str(number).encode(), msg_id=f"m:{number}")
        generation = jetstream.generation
        await own_nats.kill()
        await own_nats.start()
        await assert_eventually(lambda: jetstream.generation > generation)
        assert await _take(jetstream, 20) == [str(number) for number in range(20)]
    finally:
        await jetstream.close()


async def test_a_worker_with_least_privilege_pulls_and_can_do_nothing_else(tmp_path: Path) -> None:
    admin = NatsUser("admin", "admin-password", publish=(">",), subscribe=(">",))
    worker = NatsUser(
        "worker",
        "worker-password",
        publish=("$JS.API.CONSUMER.MSG.NEXT.WORK.cpu", "$JS.ACK.WORK.cpu.>"),
        subscribe=("_INBOX_worker.>",),
    )
    server = NatsServer(tmp_path / "nats", [admin, worker])
    await server.start()
    boss = connect(server.url, user="admin", password="admin-password", name="boss")
    hand = connect(server.url, user="worker", password="worker-password", name="hand")
    try:
        await boss.wait_connected(10)
        await hand.wait_connected(10)
        await _queue(boss)
        await publish(boss, "work.v1.cpu", b"do it", msg_id="1")
        assert await _take(hand, 1) == ["do it"]
        with pytest.raises(NatsUnavailable):
            await publish(hand, "work.v1.cpu", b"forged", msg_id="2")
        assert (await boss.context().stream_info("WORK")).state.messages == 0
    finally:
        await hand.close()
        await boss.close()
        await server.stop()


async def test_closing_while_it_connects_does_not_hang(nats_server: NatsServer) -> None:
    """nats-py swallows a cancellation that comes at some points of its handshake: all of them are tried."""
    for milliseconds in range(30):
        jetstream = connect(nats_server.url, user=NATS_USER.name, password=NATS_USER.password, name="hasty")
        await asyncio.sleep(milliseconds / 1000)
        async with asyncio.timeout(60):
            await jetstream.close()
        assert not jetstream.is_connected
