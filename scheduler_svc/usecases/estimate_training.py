"""Estimates a job that nobody has submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.device_checks import check_device_options
from scheduler_svc.domain.errors import EstimateUnavailable
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape
from scheduler_svc.domain.estimate.fit import Estimate, estimate_job
from scheduler_svc.domain.estimate.memory import adapter_parameters
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import TokenCounts, count_tokens, rows_over_context
from scheduler_svc.domain.job import DeviceClass, Needs
from scheduler_svc.domain.parameters import Given, TrainingParameters, fit_parameters, resolve_parameters
from scheduler_svc.domain.placement import check_devices
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.search import search

_WAIT_SECONDS = 20.0
_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """What a user asks about."""

    token: str
    model_id: str
    dataset_id: str
    parameters: Given
    device_class: DeviceClass
    named: Sequence[Place]
    """Devices besides those of registered trainers."""
    device_count: int = 1
    """That one trainer has for the job."""


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a job will take."""

    parameters: TrainingParameters
    model: ModelShape
    trained_parameters: int
    tokens: TokenCounts | None
    rows_over_context: int
    samples_over_context: tuple[str, ...]
    devices: tuple[Estimate, ...]


async def estimate_training(request: EstimateRequest, workers: WorkerStore, catalog: Catalog) -> TrainingEstimate:
    """Returns what the job would take.

    Raises:
        InvalidField, ModelNotFound, DatasetNotFound, ModelNotReady, DatasetNotReady, EstimateUnavailable: as the
        contract says.
    """
    resolved = resolve_parameters(request.parameters)
    check_device_options(resolved, request.device_class)
    check_devices(Needs(request.device_class, request.device_count), resolved)
    asked = catalog.get_model(request.model_id, request.token), catalog.get_dataset(request.dataset_id, request.token)
    model, dataset = await asyncio.gather(*asked)
    parameters = fit_parameters(resolved, request.parameters, model, dataset)
    if model.shape is None:
        raise EstimateUnavailable(request.model_id)
    shape = await catalog.shapes.get(dataset, request.token, wait_seconds=_WAIT_SECONDS)
    registered = [
        device.place
        for device in await workers.devices()
        if request.device_class in (DeviceClass.ANY, device.place.device_class)
        and request.device_count <= device.device_count
    ]
    rows = shape or DatasetShape((), rows=dataset.train_rows)
    # Off the event loop: what would fit is searched for.
    places = [*registered, *request.named]
    return await search(_estimate, model.shape, rows, parameters, places, request.device_count)


def _estimate(
    model: ModelShape,
    dataset: DatasetShape,
    parameters: TrainingParameters,
    places: Sequence[Place],
    device_count: int,
) -> TrainingEstimate:
    found = [estimate_job(model, dataset, parameters, place, device_count) for place in places]
    over = rows_over_context(model, dataset, parameters.sampling)
    return TrainingEstimate(
        parameters=parameters,
        model=model,
        trained_parameters=adapter_parameters(model, parameters.lora),
        tokens=count_tokens(model, dataset, parameters.sampling),
        rows_over_context=sum(shape.rows for shape, _ in over),
        samples_over_context=tuple(shape.sample_id for shape, _ in over[:_SAMPLES]),
        devices=tuple(found),
    )
