from __future__ import annotations

import asyncio

from auth_svc.store.login_failure_store import LoginFailureStore
from meshkit.postgres import Pool


async def test_failures_cost_nothing_at_first_and_then_a_delay(failures: LoginFailureStore) -> None:
    for _ in range(3):
        assert (await failures.admit("ada")).is_admitted
        await failures.count("ada")
    last_free = await failures.admit("ada")
    assert last_free.is_admitted
    assert last_free.counts_in_advance
    refused = await failures.admit("ADA")
    assert not refused.is_admitted
    assert 25 < refused.retry_after.total_seconds() <= 30
    assert (await failures.admit("bob")).is_admitted


async def test_parallel_guesses_share_one_turn(failures: LoginFailureStore) -> None:
    for _ in range(3):
        await failures.count("ada")
    admissions = await asyncio.gather(*(failures.admit("ada") for _ in range(20)))
    assert sum(admission.is_admitted for admission in admissions) == 1


async def test_being_refused_does_not_prolong_the_delay(failures: LoginFailureStore) -> None:
    for _ in range(5):
        await failures.count("ada")
    waits = [(await failures.admit("ada")).retry_after for _ in range(5)]
    assert waits == sorted(waits, reverse=True)


async def test_a_right_password_clears_the_account(failures: LoginFailureStore) -> None:
    for _ in range(9):
        await failures.count("ada")
    await failures.forget("ada")
    admission = await failures.admit("ada")
    assert admission.is_admitted
    assert not admission.counts_in_advance


async def test_old_failures_are_forgotten_and_deleted(failures: LoginFailureStore, pool: Pool) -> None:
    for _ in range(9):
        await failures.count("ada")
    await failures.count("bob")
    await pool.execute("UPDATE login_failures SET last_time = last_time - interval '61 min' WHERE failures = 9")
    assert (await failures.admit("ada")).is_admitted
    await failures.delete_old()
    assert await pool.fetchval("SELECT count(*) FROM login_failures") == 1
    await pool.execute("UPDATE login_failures SET last_time = last_time - interval '61 min', failures = 9")
    await failures.count("bob")
    assert await pool.fetchval("SELECT failures FROM login_failures") == 1


async def test_what_was_typed_is_not_stored(failures: LoginFailureStore, pool: Pool) -> None:
    await failures.count("my secret password\0in the wrong field")
    row = await pool.fetchrow("SELECT f::text AS row FROM login_failures f")
    assert row is not None
    assert "secret" not in row["row"]
