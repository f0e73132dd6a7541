"""Requests that are repeated: one effect, equal answers, on any replica and whatever crosses what."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from meshkit.postgres import Connection
from scheduler_svc.domain.errors import RequestIdReused
from scheduler_svc.domain.ids import UserId
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.request_store import NO_ANSWER, AnswerCodec, answer_once
from tests.integration.scheduler.scheduler_stores import Stores, request

COUNTED: AnswerCodec[int] = AnswerCodec(lambda count: {"count": count}, lambda answer: answer["count"])


async def counted(stores: Stores, key: RequestKey | None) -> int:
    """An effect that would show if it happened twice: counts itself, slowly."""

    async def act(connection: Connection) -> int:
        await connection.execute("INSERT INTO effects VALUES (1)")
        await connection.execute("SELECT pg_sleep(0.05)")
        count: int = await connection.fetchval("SELECT count(*) FROM effects")
        return count

    return await answer_once(stores.pool, stores.queries, key, act, COUNTED)


@pytest.fixture(autouse=True)
async def _effects(stores: Stores) -> None:
    await stores.pool.execute("CREATE TABLE effects (one integer)")


async def test_twenty_at_once_on_two_replicas_have_one_effect_and_equal_answers(
    stores: Stores, other_replica: Stores
) -> None:
    key = request()
    answers = await asyncio.gather(*(counted(replica, key) for replica in [stores, other_replica] * 10))
    assert answers == [1] * 20
    assert await counted(stores, request()) == 2
    assert await counted(other_replica, key) == 1, "the first answer, whatever happened since"
    assert await counted(stores, None) == 3
    assert await counted(stores, None) == 4, "without an id nothing is known to be a repetition"


async def test_an_id_belongs_to_one_rpc_with_one_body_of_one_caller(stores: Stores) -> None:
    request_id = uuid4()
    await counted(stores, request(request_id))
    for other in (request(request_id, "other body"), request(request_id, rpc="StopTrainingJob")):
        with pytest.raises(RequestIdReused):
            await counted(stores, other)
        with pytest.raises(RequestIdReused):
            await stores.requests.find(other)
    assert await counted(stores, request(request_id, "other body", caller_id=UserId("usr_stranger"))) == 2


async def test_what_failed_is_not_kept_and_another_takes_its_turn(stores: Stores, other_replica: Stores) -> None:
    key = request()

    async def fail(connection: Connection) -> int:
        await connection.execute("INSERT INTO effects VALUES (1)")
        await connection.execute("SELECT pg_sleep(0.05)")
        raise ConnectionError("on the way")

    failing = answer_once(stores.pool, stores.queries, key, fail, COUNTED)
    outcomes: list[Any] = await asyncio.gather(failing, counted(other_replica, key), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] in ([ConnectionError, int], [int, int])
    assert outcomes[1] == 1
    assert await stores.pool.fetchval("SELECT count(*) FROM effects") == 1


async def test_a_lost_commit_leaves_nothing_behind(stores: Stores) -> None:
    """A connection that is cut before the commit: neither the effect nor the id is there, and the retry does it all."""
    key = request()

    async def cut(connection: Connection) -> int:
        await connection.execute("INSERT INTO effects VALUES (1)")
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return 0

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await answer_once(stores.pool, stores.queries, key, cut, COUNTED)
    assert await stores.requests.find(key) is None
    assert await counted(stores, key) == 1


async def test_an_answer_of_nothing_is_an_answer(stores: Stores) -> None:
    key = request()

    async def act(connection: Connection) -> None:
        await connection.execute("INSERT INTO effects VALUES (1)")

    for _ in range(2):
        await answer_once(stores.pool, stores.queries, key, act, NO_ANSWER)
    assert await stores.pool.fetchval("SELECT count(*) FROM effects") == 1
    assert await stores.requests.find(key) == {}


async def test_requests_are_forgotten_when_they_are_old(stores: Stores) -> None:
    old, new = request(), request()
    for key in (old, new):
        await counted(stores, key)
    await stores.pool.execute(
        "UPDATE request_ids SET create_time = now() - interval '8 days' WHERE request_id = $1", old.request_id
    )
    await stores.pool.execute(
        """
        INSERT INTO request_ids (owner_id, request_id, rpc, body_sha256, answer, create_time)
        SELECT 'usr_busy', gen_random_uuid(), 'CreateTrainingJob', '', '{}', now() - interval '8 days'
        FROM generate_series(1, 2500)
        """
    )
    await stores.requests.forget_old(timedelta(days=7))
    assert await stores.pool.fetchval("SELECT count(*) FROM request_ids") == 1, "of however many"
    assert await stores.requests.find(old) is None
    assert await stores.requests.find(new) == {"count": 2}
