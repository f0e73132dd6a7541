"""Accepts a job that begins with what a training job has made: an evaluation or a merge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from meshkit.ids import new_id
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.errors import DeviceUnfit
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import DeviceClass, Job, JobSubmission
from scheduler_svc.domain.parameters import DatasetFacts, TrainingParameters
from scheduler_svc.domain.post_training import check_rows, check_source, evaluation_of, merge_of, recipe_of
from scheduler_svc.domain.post_training_parameters import EvaluationParameters, MergeParameters
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.submit_job import accept
from scheduler_svc.usecases.view_queue import QueueView

_WAIT_SECONDS = 1.5
"""For the catalog to count a dataset's rows; the job is accepted without."""


@dataclass(frozen=True, slots=True)
class PostTrainingRequest:
    """What a user asks for."""

    owner_id: UserId
    token: str
    """The user's access token, with which the catalog is asked."""
    source_job_id: JobId
    dataset_id: str
    """Empty for that of the source."""
    name: str
    device_class: DeviceClass
    priority: int
    key: RequestKey | None


@dataclass(frozen=True, slots=True)
class PostTrainingStores:
    """What such jobs are accepted with."""

    jobs: JobStore
    requests: RequestStore
    workers: WorkerStore
    queue: QueueView
    catalog: Catalog


async def evaluate_job(
    request: PostTrainingRequest, evaluation: EvaluationParameters, tools: PostTrainingStores
) -> Job:
    """Returns the accepted evaluation, QUEUED; a repeated request gets the first answer.

    Raises:
        JobNotFound, ArtifactNotFound, IllegalTransition, SourceUnfit, InvalidField, ModelNotFound, DatasetNotFound,
        ModelNotReady, DatasetNotReady, DeviceUnfit, QuotaExceeded, RequestIdReused: as the contract says.
    """

    async def check(dataset: DatasetFacts) -> None:
        shape = await tools.catalog.shapes.get(dataset, request.token, wait_seconds=_WAIT_SECONDS)
        check_rows(evaluation, dataset, shape.splits if shape else frozenset())

    return await _accept(request, lambda source: evaluation_of(source, evaluation), check, tools)


async def merge_job(request: PostTrainingRequest, merge: MergeParameters, tools: PostTrainingStores) -> Job:
    """Returns the accepted merge, QUEUED; a repeated request gets the first answer. Raises as `evaluate_job`."""
    return await _accept(request, lambda source: merge_of(source, merge), None, tools)


async def _accept(
    request: PostTrainingRequest,
    derive: Callable[[Job], TrainingParameters],
    check_dataset: Callable[[DatasetFacts], Awaitable[None]] | None,
    tools: PostTrainingStores,
) -> Job:
    async def checked() -> JobSubmission:
        source = await tools.jobs.get(request.source_job_id, request.owner_id)
        parameters = derive(source)
        recipe = recipe_of(parameters)
        check_source(source, recipe)
        dataset_id = request.dataset_id or source.dataset_id
        _, dataset, problem = await asyncio.gather(
            tools.catalog.get_model(source.model_id, request.token),
            tools.catalog.get_dataset(dataset_id, request.token),
            tools.workers.four_bit_problem(request.device_class),
        )
        if parameters.needs_4bit and problem is not None:
            raise DeviceUnfit(request.device_class, problem)
        if check_dataset is not None:
            await check_dataset(dataset)
        return JobSubmission(
            id=JobId(new_id("job")),
            owner_id=request.owner_id,
            name=request.name,
            model_id=source.model_id,
            dataset_id=dataset_id,
            dataset_version=dataset.version,
            parameters=parameters,
            # Not the memory that the training took: an evaluation keeps no activations, a merge needs no device.
            needs=replace(
                source.needs,
                device_class=request.device_class,
                device_count=1,
                device_memory_bytes=0,
                recipe=recipe,
            ),
            priority=request.priority,
            source_job_id=source.id,
        )

    return await accept(checked(), request.owner_id, request.key, tools.jobs, tools.requests, tools.queue)
