"""Accepts a training job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from meshkit.failpoints import failpoint
from meshkit.ids import new_id
from meshkit.telemetry.logging import bound_logger
from scheduler_svc import metrics
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.asked_parameters import AskedParameters
from scheduler_svc.domain.device_checks import check_device_options
from scheduler_svc.domain.errors import DeviceUnfit, QuotaExceeded, RecipeUnavailable
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import DeviceClass, Job, JobState, JobSubmission, Needs, Progress, Recipe, StateReason
from scheduler_svc.domain.parameters import DatasetFacts, ModelFacts, TrainingParameters, fit_parameters
from scheduler_svc.domain.placement import check_devices
from scheduler_svc.domain.post_training import recipe_of
from scheduler_svc.domain.quota import Limit
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.check_fit import FitCheck
from scheduler_svc.usecases.view_queue import QueueView


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a user asks for."""

    owner_id: UserId
    token: str
    """The user's access token, with which the catalog is asked."""
    name: str
    model_id: str
    dataset_id: str
    parameters: AskedParameters
    device_class: DeviceClass
    device_count: int
    device_memory_bytes: int
    priority: int
    key: RequestKey | None
    """None for a request that is not safe to repeat."""


async def submit_job(
    request: JobRequest,
    jobs: JobStore,
    requests: RequestStore,
    workers: WorkerStore,
    queue: QueueView,
    catalog: Catalog,
    fit: FitCheck,
) -> Job:
    """Returns the accepted job, QUEUED; a repeated request gets the first answer.

    Raises:
        InvalidField, ModelNotFound, DatasetNotFound, ModelNotReady, DatasetNotReady, DeviceUnfit, RecipeUnavailable,
        JobTooLarge, ContextExceeded, QuotaExceeded, RequestIdReused, JobNotFound: as the contract says.
    """
    parameters = request.parameters.resolved
    check_device_options(parameters, request.device_class)
    checked = _check(request, parameters, workers, catalog, fit)
    return await accept(checked, request.owner_id, request.key, jobs, requests, queue)


async def accept(
    checked: Awaitable[JobSubmission],
    owner_id: UserId,
    key: RequestKey | None,
    jobs: JobStore,
    requests: RequestStore,
    queue: QueueView,
) -> Job:
    """Returns the job of a submission once it is checked, QUEUED; a repeated request gets the first answer.

    Raises:
        QuotaExceeded, RequestIdReused, JobNotFound, and what the check raises.
    """
    try:
        submission = await checked
    except Exception:  # the catalog's trouble, too
        # A repetition is answered even when model or dataset are gone by now.
        known = None if key is None else await requests.find(key)
        if known is None:
            raise
        return as_first_answered(await jobs.get_answered(owner_id, known))
    try:
        job = await jobs.submit(submission, key)
    except QuotaExceeded as full:
        raise await _with_time(full, owner_id, queue) from None
    await failpoint("job.create.after_commit")
    if job.id != submission.id:
        # A repeated request made its job before, under another id.
        return as_first_answered(job)
    _tell(job)
    return job


def _tell(job: Job) -> None:
    bound_logger().info(
        "audit.job_submitted",
        actor=job.owner_id,
        job_id=job.id,
        kind=job.needs.recipe,
        model_id=job.model_id,
        dataset_id=job.dataset_id,
        device_class=job.needs.device_class,
        source_job_id=job.source_job_id,
    )
    metrics.JOBS_SUBMITTED.labels(job.needs.recipe, job.needs.device_class).inc()


async def _with_time(full: QuotaExceeded, owner_id: UserId, queue: QueueView) -> QuotaExceeded:
    """Adds when there will probably be room: in the queue when one of the owner's jobs leaves it."""
    if full.limit_name != Limit.QUEUED_JOBS:
        return full
    return QuotaExceeded(full.limit_name, full.limit, full.used, await queue.next_start(owner_id))


def as_first_answered(job: Job) -> Job:
    """Returns a job as it was when it was accepted: a repeated request must not show what happened since."""
    return replace(
        job,
        state=JobState.QUEUED,
        reason=StateReason.UNSPECIFIED,
        message="",
        generation=1,
        attempt=0,
        worker_id=None,
        sequence=1,
        update_time=job.create_time,
        start_time=None,
        end_time=None,
        has_artifact=False,
        progress=Progress(),
        is_paused=False,
        revision=1,
    )


async def _check(
    request: JobRequest, parameters: TrainingParameters, workers: WorkerStore, catalog: Catalog, fit: FitCheck
) -> JobSubmission:
    """Holds the request against what the catalog and the trainers have."""
    needs = _needs(request, parameters)
    check_devices(needs, parameters)
    # A rehearsal that no trainer was started for would wait for ever; all else a trainer may yet bring.
    if needs.recipe is Recipe.REHEARSAL and not await workers.offers(needs.recipe):
        raise RecipeUnavailable(needs.recipe)
    model, dataset, problem = await _look_up(request, workers, catalog)
    if needs.is_4bit and problem is not None:
        raise DeviceUnfit(request.device_class, problem)
    fitted = fit_parameters(parameters, request.parameters.given, model, dataset)
    least = await fit.check(fitted, model, dataset, needs, request.token)
    if least > needs.device_memory_bytes:
        # No smaller trainer is to claim it where there is a larger one.
        needs = replace(needs, device_memory_bytes=least)
    return JobSubmission(
        id=JobId(new_id("job")),
        owner_id=request.owner_id,
        name=request.name,
        model_id=request.model_id,
        dataset_id=request.dataset_id,
        dataset_version=dataset.version,
        parameters=fitted,
        needs=needs,
        priority=request.priority,
    )


def _needs(request: JobRequest, parameters: TrainingParameters) -> Needs:
    return Needs(
        device_class=request.device_class,
        device_count=request.device_count,
        device_memory_bytes=request.device_memory_bytes,
        recipe=recipe_of(parameters),
        is_4bit=parameters.needs_4bit,
    )


async def _look_up(
    request: JobRequest, workers: WorkerStore, catalog: Catalog
) -> tuple[ModelFacts, DatasetFacts, str | None]:
    """Asks for all that is needed at once; of several errors the first in this order is raised."""
    model = catalog.get_model(request.model_id, request.token)
    dataset = catalog.get_dataset(request.dataset_id, request.token)
    problem = workers.four_bit_problem(request.device_class)
    # Under load nearly always known already.
    if not (model.done() and dataset.done() and problem.done()):
        await asyncio.gather(model, dataset, problem, return_exceptions=True)
    for each in (dataset, problem):
        each.exception()  # looked at, should another's be raised
    return model.result(), dataset.result(), problem.result()
