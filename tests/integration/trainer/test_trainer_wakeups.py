"""Wake-ups between trainers on one queue: who has no use for one hands it on at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from meshkit.jetstream import JetStream, ensure_consumer, ensure_work_queue, publish
from meshkit.testing import assert_eventually
from trainer_svc.clients.wakeups import STREAM, Wakeups
from trainer_svc.domain.device import DeviceClass

SOON_SECONDS = 15
"""Long before the two seconds after which a trainer asks unasked."""

Listen = Callable[[], Awaitable[Wakeups]]


@pytest_asyncio.fixture(loop_scope="session")
async def listen(jetstream: JetStream) -> AsyncIterator[Listen]:
    """Makes trainers' ends of one queue."""
    subjects = [f"jobs.v1.{name}" for name in ("any", "cpu")]
    await ensure_work_queue(jetstream, STREAM, subjects)
    for subject in subjects:
        await ensure_consumer(jetstream, STREAM, f"trainers-{subject.rpartition('.')[2]}", subject)
    running: list[asyncio.Task[None]] = []

    async def make() -> Wakeups:
        made = Wakeups(jetstream)
        running.append(asyncio.create_task(made.run(DeviceClass.CPU)))
        return made

    yield make
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await jetstream.context().delete_stream(STREAM)


async def waits(wakeups: Wakeups, seconds: float = SOON_SECONDS) -> bool:
    """Whether a wake-up comes in time."""
    start = time.monotonic()
    await wakeups.wait(seconds)
    return time.monotonic() - start < seconds


async def wake(jetstream: JetStream, msg_id: str) -> None:
    await publish(jetstream, "jobs.v1.cpu", b"{}", msg_id=msg_id)


async def is_settled(jetstream: JetStream) -> bool:
    return (await jetstream.context().stream_info(STREAM)).state.messages == 0


async def test_one_that_brought_a_job_is_gone(jetstream: JetStream, listen: Listen) -> None:
    trainer = await listen()
    await wake(jetstream, "brought")
    assert await waits(trainer)

    trainer.heeded(trainer.take())

    await assert_eventually(lambda: is_settled(jetstream))


async def test_a_trainer_with_a_job_hands_on_what_reaches_it(jetstream: JetStream, listen: Listen) -> None:
    busy, idle = await listen(), None
    # Its pulls are open from before it had a job.
    assert not await waits(busy, 0.2)
    with busy.left_to_others():
        idle = await listen()
        for number in range(4):
            await wake(jetstream, f"busy-{number}")
            assert await waits(idle)
            idle.heeded(idle.take())
        assert busy.take() == []
    await assert_eventually(lambda: is_settled(jetstream))


async def test_one_of_no_use_here_is_shown_to_others_and_then_done_with(jetstream: JetStream, listen: Listen) -> None:
    trainers = [await listen(), await listen()]
    await wake(jetstream, "no use")
    shown = 0
    while not await is_settled(jetstream):
        came = [trainer.take() for trainer in trainers]
        shown += sum(map(len, came))
        for trainer, taken in zip(trainers, came, strict=True):
            trainer.hand_on(taken)
        await asyncio.gather(*(trainer.wait(0.1) for trainer in trainers))

    assert shown == 3


async def test_one_that_comes_while_the_scheduler_is_asked_is_asked_about_again(
    jetstream: JetStream, listen: Listen
) -> None:
    trainer = await listen()
    before = trainer.take()
    await wake(jetstream, "meanwhile")
    assert await waits(trainer)

    # The question was about nothing that this wake-up tells of.
    trainer.hand_on(before)

    assert await waits(trainer, 0.5)
    assert len(trainer.take()) == 1
