"""Carry one claimed attempt from its claim to its end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from meshkit.cancellation import cancel_all
from trainer_svc import metrics
from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers
from trainer_svc.domain.attempt import (
    AdapterMade,
    AttemptFailed,
    CheckpointRefused,
    Drained,
    FailReason,
    Outcome,
    Recipe,
    StoppedEmpty,
)
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.errors import (
    AttemptFencedError,
    CallRefusedError,
    CredentialRefusedError,
    FilesIncompleteError,
    NoSuchRowsError,
    SchedulerUnavailableError,
    StorageUnavailableError,
    UnsafePathError,
)
from trainer_svc.domain.limits import AttemptLimits
from trainer_svc.qlora.folder_files import disk_trouble
from trainer_svc.qlora.spec import SpecError
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.end_attempt import complete_empty, fail_attempt, finish_checkpoints, publish_artifact
from trainer_svc.usecases.keep_attached import keep_attached
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.materialise_job import materialise_job
from trainer_svc.usecases.publish_checkpoints import CheckpointPublisher
from trainer_svc.usecases.restore_checkpoint import CheckpointRestorer
from trainer_svc.usecases.train_in_child import LaunchTraining, Meter, train_in_child
from trainer_svc.usecases.warm_child import WarmChild

T = TypeVar("T")


_END_SECONDS = 5.0
"""For the answer to an attempt's end, when its stream is over already."""


@dataclass(frozen=True, slots=True)
class AttemptTools:
    """What attempts are run with."""

    scheduler: SchedulerClient
    catalog: CatalogClient
    transfers: Transfers
    cache: ContentCache
    launch: Mapping[Recipe, LaunchTraining]
    """How the training child is started, for each recipe that this trainer offers."""
    jobs_folder: Path
    limits: AttemptLimits
    threads: int = 0
    warm: WarmChild | None = None
    """Trains jobs that it takes, in place of `launch`."""
    encoder_cache_bytes: int = 0
    meter: Meter | None = None
    """Reports what the device does meanwhile."""


async def run_attempt(attempt: LiveAttempt, tools: AttemptTools) -> str:
    """Runs the attempt and returns the job's state after it, or `FENCED` or `ABANDONED`.

    Whatever happens on the way, the training child is gone afterwards, and so are the attempt's files. Cancelling
    ends it at once and tells nobody: the lease then runs out.
    """
    log = structlog.get_logger().bind(job_id=attempt.claim.job_id, attempt=attempt.claim.attempt)
    folder = tools.jobs_folder / attempt.name
    metrics.PROGRESS.set(0)
    attached = asyncio.create_task(keep_attached(attempt, tools.scheduler, tools.limits), name="attempt-stream")
    ending = asyncio.Event()
    working = asyncio.create_task(_work_and_end(attempt, folder, tools, ending), name="attempt-work")
    try:
        await asyncio.wait({attached, working}, return_when=asyncio.FIRST_COMPLETED)
        if ending.is_set() and not working.done():
            # The scheduler ends the stream of an attempt that is over, maybe before it has answered to its end.
            await asyncio.wait({working}, timeout=_END_SECONDS)
        ended = working if working.done() else attached
        state = ended.result()
        log.info("attempt.ended", state=state)
    except AttemptFencedError as error:
        state = "FENCED"
        log.warning("attempt.fenced", cause=str(error))
    # The edge of the attempt: whatever breaks in it, its lease runs out and the trainer lives on.
    except Exception:
        state = "ABANDONED"
        log.exception("attempt.abandoned")
    finally:
        await cancel_all(attached, working)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        metrics.forget_job()
    metrics.ATTEMPTS.labels(state).inc()
    return state


async def _work_and_end(attempt: LiveAttempt, folder: Path, tools: AttemptTools, ending: asyncio.Event) -> str:
    """`ending` is set once what is left is to tell the scheduler."""
    checkpoints = CheckpointPublisher(attempt, folder / "publish", tools.scheduler, tools.transfers)
    try:
        outcome = await _work(attempt, folder, tools, checkpoints)
    except AttemptFencedError:
        raise
    # The edge of the attempt: a fault of ours must end this attempt; not its job, the trainer or other attempts.
    except Exception as error:
        structlog.get_logger().exception("attempt.broken", job_id=attempt.claim.job_id)
        outcome = _broken(error)
    ending.set()
    try:
        return await _end(attempt, outcome, tools, checkpoints)
    except (CallRefusedError, FilesIncompleteError) as error:
        structlog.get_logger().error("attempt.end_refused", job_id=attempt.claim.job_id, cause=str(error))
        refused = AttemptFailed(FailReason.INTERNAL, f"the scheduler refuses the attempt's end: {error}")
        return await fail_attempt(attempt, refused, scheduler=tools.scheduler, limits=tools.limits)


def _broken(error: Exception) -> AttemptFailed:
    """What an error that nobody foresaw makes of the attempt: a disk without room is no fault of ours, and what is one
    is none of the job's. It may pass, so the job is tried again; one that it meets each time is quarantined."""
    if words := disk_trouble(error):
        return AttemptFailed(FailReason.STORAGE_UNAVAILABLE, f"{words} on the trainer's disk: make room there")
    return AttemptFailed(
        FailReason.CRASHED,
        f"a fault of the trainer: {type(error).__name__}; the operator finds it in the trainer's log",
    )


async def _work(attempt: LiveAttempt, folder: Path, tools: AttemptTools, checkpoints: CheckpointPublisher) -> Outcome:
    if attempt.claim.unknown:
        return AttemptFailed(FailReason.DEVICE_UNFIT, attempt.claim.unknown)
    recipe = attempt.claim.recipe
    if recipe not in tools.launch:
        return AttemptFailed(
            FailReason.DEVICE_UNFIT, f"this trainer does not offer the recipe {recipe}: name it in TRAINER_RECIPES"
        )
    restorer = CheckpointRestorer(attempt, folder, tools.scheduler, tools.cache)
    while True:
        prepared = await _unless_told_to_stop(attempt, _materialise(attempt, folder, restorer, tools))
        if prepared is None:
            return StoppedEmpty() if attempt.stop_ordered.is_set() else Drained(0)
        if isinstance(prepared, AttemptFailed):
            return prepared
        outcome = await _train(attempt, folder, tools, checkpoints)
        if not isinstance(outcome, CheckpointRefused) or not restorer.has_candidate:
            return outcome
        restorer.refuse(outcome.message)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The job's folder is ready."""


async def _materialise(
    attempt: LiveAttempt, folder: Path, restorer: CheckpointRestorer, tools: AttemptTools
) -> _Prepared | AttemptFailed:
    """Materialises the job; troubles that may pass are borne for `limits.storage` seconds."""
    backoff = Backoff(first=0.5, longest=10.0)
    gives_up = asyncio.get_running_loop().time() + tools.limits.storage
    while True:
        try:
            await materialise_job(
                attempt,
                folder,
                restorer,
                scheduler=tools.scheduler,
                catalog=tools.catalog,
                cache=tools.cache,
                threads=tools.threads,
                encoder_cache_bytes=tools.encoder_cache_bytes,
            )
            return _Prepared()
        except (SchedulerUnavailableError, StorageUnavailableError, CredentialRefusedError) as error:
            structlog.get_logger().warning("job.not_materialised_yet", job_id=attempt.claim.job_id, cause=str(error))
            if asyncio.get_running_loop().time() > gives_up:
                return AttemptFailed(FailReason.STORAGE_UNAVAILABLE, f"model and clips could not be fetched: {error}")
            await asyncio.sleep(backoff.next_delay())
        except CallRefusedError as error:
            is_model = error.reason.startswith("MODEL_")
            reason = FailReason.MODEL_UNSUPPORTED if is_model else FailReason.BAD_DATA
            hint = "; was it deleted?" if error.reason.endswith("_NOT_FOUND") else ""
            return AttemptFailed(reason, f"the catalog refuses: {error}{hint}")
        except (UnsafePathError, NoSuchRowsError) as error:
            return AttemptFailed(FailReason.BAD_DATA, str(error))
        except SpecError as error:
            return AttemptFailed(FailReason.BAD_PARAMETERS, str(error))


async def _train(attempt: LiveAttempt, folder: Path, tools: AttemptTools, checkpoints: CheckpointPublisher) -> Outcome:
    attempt.show_phase("starting training process")
    warm = tools.warm if tools.warm is not None and tools.warm.takes(attempt.claim) else None
    if tools.warm is not None and warm is None:
        await tools.warm.drop()
    publishing = asyncio.create_task(checkpoints.run(), name="checkpoint-publisher")
    training = asyncio.create_task(
        train_in_child(
            attempt,
            folder,
            launch=tools.launch[attempt.claim.recipe],
            limits=tools.limits,
            on_checkpoint=checkpoints.offer,
            warm=warm,
            meter=tools.meter if attempt.claim.recipe is Recipe.QLORA else None,
        ),
        name="training",
    )
    try:
        await asyncio.wait({publishing, training}, return_when=asyncio.FIRST_COMPLETED)
        if publishing.done():
            publishing.result()
        return await training
    finally:
        await cancel_all(publishing, training)


async def _end(attempt: LiveAttempt, outcome: Outcome, tools: AttemptTools, checkpoints: CheckpointPublisher) -> str:
    """Tells the scheduler; returns the job's state."""
    if isinstance(outcome, AdapterMade):
        published = await publish_artifact(
            attempt, outcome, checkpoints, scheduler=tools.scheduler, transfers=tools.transfers, limits=tools.limits
        )
        if isinstance(published, str):
            return published
        outcome = published
    else:
        await finish_checkpoints(attempt, checkpoints, tools.limits)
    if isinstance(outcome, StoppedEmpty) or (isinstance(outcome, Drained) and attempt.stop_ordered.is_set()):
        return await complete_empty(attempt, scheduler=tools.scheduler, limits=tools.limits)
    if isinstance(outcome, Drained):
        message = f"the trainer gave the job back after step {outcome.step}; it goes on from the newest checkpoint"
        outcome = AttemptFailed(FailReason.PREEMPTED, message)
    if isinstance(outcome, CheckpointRefused):
        outcome = AttemptFailed(FailReason.INTERNAL, f"a checkpoint is refused that is not there: {outcome.message}")
    structlog.get_logger().warning(
        "attempt.failed", job_id=attempt.claim.job_id, reason=outcome.reason, message=outcome.message
    )
    return await fail_attempt(attempt, outcome, scheduler=tools.scheduler, limits=tools.limits)


async def _unless_told_to_stop(attempt: LiveAttempt, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None if a stop or a drain came first."""
    working = asyncio.create_task(work)
    orders = [asyncio.create_task(event.wait()) for event in (attempt.stop_ordered, attempt.drain_ordered)]
    try:
        await asyncio.wait({working, *orders}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await cancel_all(working, *orders)
