from __future__ import annotations

import asyncio
import time

import pytest

from auth_svc.domain.errors import PasswordQueueFull
from auth_svc.usecases.password_hasher import Argon2Parameters, PasswordHasher

CHEAP = Argon2Parameters(memory_kib=19 * 1024, time_cost=2, parallelism=1)


async def test_verifies_its_own_hashes_only() -> None:
    hasher = PasswordHasher(CHEAP, threads=1, max_waiting=4)
    encoded = await hasher.hash("seven green boats")
    assert encoded.startswith("$argon2id$")
    assert await hasher.verify(encoded, "seven green boats")
    assert not await hasher.verify(encoded, "seven green boat")
    assert not await hasher.verify(None, "seven green boats")
    hasher.close()


async def test_knows_hashes_with_old_parameters() -> None:
    old = PasswordHasher(CHEAP, threads=1, max_waiting=4)
    new = PasswordHasher(Argon2Parameters(), threads=1, max_waiting=4)
    encoded = await old.hash("seven green boats")
    assert new.needs_rehash(encoded)
    assert await new.verify(encoded, "seven green boats")
    assert not new.needs_rehash(await new.hash("seven green boats"))


async def test_default_parameters_are_those_decided() -> None:
    encoded = await PasswordHasher(Argon2Parameters(), threads=1, max_waiting=0).hash("x")
    assert "m=65536,t=3,p=4" in encoded


async def test_an_unknown_user_costs_as_much_as_a_known_one() -> None:
    hasher = PasswordHasher(Argon2Parameters(), threads=1, max_waiting=0)
    encoded = await hasher.hash("seven green boats")

    async def cost(candidate: str | None) -> float:
        # The processor's time, of all threads: what others do on the machine hardly counts.
        start = time.process_time()
        await hasher.verify(candidate, "wrong")
        return time.process_time() - start

    # In turn, so that both meet the same caches and neighbours; what answers without hashing costs a thousandth.
    pairs = [(await cost(encoded), await cost(None)) for _ in range(5)]
    known, unknown = (min(costs) for costs in zip(*pairs, strict=True))
    assert 0.4 < known / unknown < 2.5


async def test_refuses_what_would_wait_too_long_and_recovers() -> None:
    hasher = PasswordHasher(CHEAP, threads=1, max_waiting=2)
    results = await asyncio.gather(*(hasher.hash("x") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, str) for result in results) == 3
    assert sum(isinstance(result, PasswordQueueFull) for result in results) == 7
    assert await hasher.verify(await hasher.hash("x"), "x")


async def test_a_call_given_up_frees_its_place() -> None:
    hasher = PasswordHasher(CHEAP, threads=1, max_waiting=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await hasher.hash("x")
    async with asyncio.timeout(60):
        while True:
            try:
                await hasher.hash("x")
                break
            except PasswordQueueFull:
                await asyncio.sleep(0.01)


async def test_the_event_loop_goes_on_while_passwords_are_hashed() -> None:
    hasher = PasswordHasher(Argon2Parameters(), threads=2, max_waiting=50)
    work = asyncio.gather(*(hasher.hash("x") for _ in range(8)))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.005)
        turns += 1
    await work
    # Eight hashes on the loop itself would leave it a turn or two between them.
    assert turns > 3 * 8
