"""Checkpoints on record: kept by the job's policy, found again from the newest to ever older ones."""

from __future__ import annotations

import grpc
from reeltune.scheduler.v1 import checkpoint_pb2, training_parameters_pb2

from meshkit.blob import BlobStore
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.scheduler_mesh import Attempt, SmallCatalog, Trainer, User, failure_of, file_of

CODE = grpc.StatusCode


async def running(user: User, trainer: Trainer, **policy: object) -> Attempt:
    """A job with that policy, at its first step."""
    checkpoints = checkpoint_pb2.CheckpointPolicy(**policy)
    parameters = training_parameters_pb2.TrainingParameters(checkpoints=checkpoints)
    if checkpoints.keep_best:
        parameters.evaluate_every_steps = 1
    await user.create(parameters=parameters)
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
    return attempt


async def save(attempt: Attempt, step: int, eval_loss: float | None = None) -> None:
    files = await attempt.put_files({"state.json": f"{attempt.number}:{step}".encode()}, step=step)
    await attempt.commit_checkpoint(step, files, eval_loss)


async def steps_in_store(blob_store: BlobStore, job_id: str) -> set[str]:
    """`attempt/step` of every checkpoint of which the store has anything."""
    names = [item.key.removeprefix(f"jobs/{job_id}/attempts/") for item in await blob_store.list(f"jobs/{job_id}/")]
    parts = [name.partition("/checkpoints/") for name in names]
    return {f"{attempt}/{rest.split('/')[0].removesuffix('.manifest.json')}" for attempt, _, rest in parts}


async def test_the_last_the_best_and_every_nth_stay_and_the_rest_is_collected(
    user: User, trainer: Trainer, blob_store: BlobStore, catalog: SmallCatalog
) -> None:
    user.dataset_id = catalog.add_dataset(user.id, eval_rows=5)
    attempt = await running(user, trainer, keep_last=2, keep_best=True, keep_every_steps=5)
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4), (5, None), (6, 0.2), (7, None), (8, None)):
        await save(attempt, step, loss)

    async def is_collected() -> bool:
        return await steps_in_store(blob_store, attempt.job_id) == {"1/2", "1/5", "1/7", "1/8"}

    await assert_eventually(is_collected)


async def test_by_default_three_stay(user: User, trainer: Trainer, blob_store: BlobStore) -> None:
    attempt = await running(user, trainer)
    assert attempt.claim.job.parameters.checkpoints.keep_last == 3
    for step in range(1, 6):
        await save(attempt, step)

    async def is_collected() -> bool:
        return await steps_in_store(blob_store, attempt.job_id) == {"1/3", "1/4", "1/5"}

    await assert_eventually(is_collected)


async def test_an_attempt_goes_back_as_far_as_it_must(user: User, trainer: Trainer, blob_store: BlobStore) -> None:
    first = await running(user, trainer, keep_last=4)
    for step in (2, 4, 6):
        await save(first, step)
    assert await first.fail("PREEMPTED") == "QUEUED"
    second = await trainer.must_claim()
    assert (second.claim.checkpoint.attempt, second.claim.checkpoint.step) == (1, 6)
    await save(second, 8)
    assert await second.fail("PREEMPTED") == "QUEUED"
    third = await trainer.must_claim()
    # The store has lost a file of one of them: that one is not even named.
    await blob_store.remove(f"jobs/{third.job_id}/attempts/1/checkpoints/4/state.json")

    found, chain = await third.find_checkpoint(), []
    while found is not None:
        chain.append((found.attempt, found.step))
        assert all(file.url for file in found.files)
        found = await third.find_checkpoint(found)

    assert chain == [(2, 8), (1, 6), (1, 2)]


async def test_only_the_effective_attempt_may_ask(user: User, trainer: Trainer) -> None:
    attempt = await running(user, trainer)
    await save(attempt, 1)
    assert await attempt.fail("PREEMPTED") == "QUEUED"
    failure = await failure_of(attempt.find_checkpoint())
    assert (failure.code, failure.reason) == (CODE.ABORTED, "ATTEMPT_FENCED")


async def test_a_repeated_commit_of_a_checkpoint_given_up_since_does_not_bring_it_back(
    user: User, trainer: Trainer, blob_store: BlobStore
) -> None:
    attempt = await running(user, trainer, keep_last=1)
    await save(attempt, 1)
    await save(attempt, 2)
    file = file_of("state.json", b"1:1")

    async def is_collected() -> bool:
        return await steps_in_store(blob_store, attempt.job_id) == {"1/2"}

    await assert_eventually(is_collected)
    failure = await failure_of(attempt.commit_checkpoint(1, [file]))
    assert failure.reason == "FILES_INCOMPLETE"
    assert await attempt.fail("PREEMPTED") == "QUEUED"
    assert (await trainer.must_claim()).claim.checkpoint.step == 2
