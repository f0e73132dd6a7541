"""Answered requests: a client that repeats one gets the first answer, and nothing happens twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from meshkit.batching import Batcher
from meshkit.failpoints import failpoint
from meshkit.postgres import Connection, Pool, Queries, transaction
from scheduler_svc.domain.errors import RequestIdReused
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.rows import Row

Answer = Mapping[str, Any]
"""An answer as plain values that jsonb can hold."""
_T = TypeVar("_T")
_MAX_QUESTIONS = 200


@dataclass(frozen=True, slots=True)
class AnswerCodec(Generic[_T]):
    """How answers of one kind are kept."""

    to_json: Callable[[_T], Answer]
    from_json: Callable[[Answer], _T]


NO_ANSWER: AnswerCodec[None] = AnswerCodec(lambda _: {}, lambda _: None)
"""For what answers with nothing but OK."""


async def answer_once(
    pool: Pool,
    queries: Queries,
    key: RequestKey | None,
    act: Callable[[Connection], Awaitable[_T]],
    codec: AnswerCodec[_T],
) -> _T:
    """Returns what `act` returns, in one transaction with all it does; or what it returned to the same request before.

    Equal requests that cross, on whatever replica, wait for the first. One that fails is not kept: its repetition is a
    new try. Without a key `act` is simply called.

    Raises:
        RequestIdReused: the id belongs to another request of the caller.
    """
    async with transaction(pool) as connection:
        if key is None:
            return await act(connection)
        known = await take_request(connection, queries, key)
        if known is not None:
            return codec.from_json(known)
        await failpoint("request.taken")
        answer = await act(connection)
        await failpoint("request.before_answer")
        await connection.execute(queries.keep_answer, key.caller_id, key.request_id, codec.to_json(answer))
        await failpoint("request.before_commit")
    await failpoint("request.after_commit")
    return answer


async def take_request(connection: Connection, queries: Queries, key: RequestKey) -> Answer | None:
    """Takes the request id for this transaction; returns the first answer when the same request was here before.

    Waits for another transaction that is taking the id.

    Raises:
        RequestIdReused: the id belongs to another request of the caller.
    """
    taken = await connection.fetchval(
        queries.insert_request_id, key.caller_id, key.request_id, key.rpc, key.body_sha256
    )
    if taken is not None:
        return None
    known = _first_answer(await connection.fetchrow(queries.select_request_id, key.caller_id, key.request_id), key)
    if known is None:
        raise AssertionError("a request id was taken and is not there")
    return known


async def find_requests(
    connection: Connection | Pool, queries: Queries, keys: Sequence[RequestKey]
) -> Sequence[Answer | RequestIdReused | None]:
    """Returns for each request what it was answered before, None when it is new, or the error that it deserves."""
    rows = await connection.fetch(
        queries.select_request_ids, [key.caller_id for key in keys], [key.request_id for key in keys]
    )
    by_id = {(row["owner_id"], row["request_id"]): row for row in rows}
    return [_first_answer_or_error(by_id.get((key.caller_id, key.request_id)), key) for key in keys]


class RequestStore:
    """The requests that are still known."""

    def __init__(self, pool: Pool, queries: Queries) -> None:
        self._pool = pool
        self._sql = queries
        self._questions = Batcher(self._find_all, max_items=_MAX_QUESTIONS)

    async def find(self, key: RequestKey) -> Answer | None:
        """Returns what the same request was answered before, or None. Raises RequestIdReused."""
        return await self._questions.ask(key)

    async def _find_all(self, keys: Sequence[RequestKey]) -> Sequence[Answer | RequestIdReused | None]:
        return await find_requests(self._pool, self._sql, keys)

    async def forget_old(self, age: timedelta) -> None:
        """Forgets requests that no client repeats any more, some at a time: no lock is held for long."""
        while await self._pool.fetchval(self._sql.delete_old_request_ids, age):
            pass


def _first_answer_or_error(row: Row | None, key: RequestKey) -> Answer | RequestIdReused | None:
    try:
        return _first_answer(row, key)
    except RequestIdReused as error:
        return error


def _first_answer(row: Row | None, key: RequestKey) -> Answer | None:
    if row is None:
        return None
    if (row["rpc"], row["body_sha256"]) != (key.rpc, key.body_sha256):
        raise RequestIdReused(str(key.request_id))
    answer: Answer = row["answer"]
    return answer
