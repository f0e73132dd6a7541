"""Refuses jobs that no registered trainer can hold, and rows that the model cannot take, before they wait.

Every job passes here, so that all is remembered: a dataset's rows, and what a job takes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from scheduler_svc.clients.dataset_shapes import DatasetShapes
from scheduler_svc.domain.errors import ContextExceeded, JobTooLarge
from scheduler_svc.domain.estimate.facts import DatasetShape, ModelShape
from scheduler_svc.domain.estimate.fit import most_frames_within_context, most_that_fits
from scheduler_svc.domain.estimate.memory import Memory, estimate_memory
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import count_tokens, rows_over_context
from scheduler_svc.domain.job import Needs, Recipe
from scheduler_svc.domain.parameters import DatasetFacts, ModelFacts, TrainingParameters
from scheduler_svc.store.worker_store import WorkerStore

_UNKNOWN = DatasetShape(())
_WAIT_SECONDS = 1.5
"""For the catalog to count a dataset's rows; the job is accepted without."""
_SAMPLES = 5


async def check_fit(
    parameters: TrainingParameters,
    model: ModelFacts,
    dataset: DatasetFacts,
    needs: Needs,
    workers: WorkerStore,
    shapes: DatasetShapes,
    token: str,
) -> int:
    """Returns the bytes that a device must have for the job to have a chance; 0 where too little is known.

    Raises:
        ContextExceeded: some rows are certainly longer than the model takes.
        JobTooLarge: no registered trainer that could hold the job otherwise has as much memory as it certainly takes.
    """
    if model.shape is None or needs.recipe is not Recipe.QLORA:
        return 0
    shape = shapes.known(dataset.id) or await shapes.get(dataset, token, wait_seconds=_WAIT_SECONDS) or _UNKNOWN
    check_context(model.shape, shape, parameters)
    devices = workers.devices()
    known = [device.place for device in await devices if device.serves(needs) and device.place.memory_bytes]
    if not known:
        return 0
    needed = {place: _memory(model.shape, shape, parameters, place) for place in known}
    if all(needed[place].least > place.memory_bytes for place in known):
        raise _too_large(known, needed, model.shape, shape, parameters)
    return min(memory.least for memory in needed.values())


def check_context(model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters) -> None:
    """Raises ContextExceeded if some rows are certainly longer than the model takes."""
    over = _over(model, dataset, parameters)
    if not over:
        return
    raise ContextExceeded(
        tokens=over[0][1],
        context_length=model.context_length,
        rows=sum(rows for rows, _, _ in over),
        samples=[sample for _, _, sample in over[:_SAMPLES]],
        max_frames=most_frames_within_context(model, dataset, parameters.sampling),
    )


@functools.lru_cache(maxsize=1024)
def _over(model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters) -> tuple[tuple[int, int, str], ...]:
    found = rows_over_context(model, dataset, parameters.sampling)
    return tuple((shape.rows, tokens, shape.sample_id) for shape, tokens in found)


@functools.lru_cache(maxsize=1024)
def _memory(model: ModelShape, dataset: DatasetShape, parameters: TrainingParameters, place: Place) -> Memory:
    tokens = count_tokens(model, dataset, parameters.sampling)
    return estimate_memory(model, tokens, parameters, place)


def _too_large(
    known: Sequence[Place],
    needed: dict[Place, Memory],
    model: ModelShape,
    dataset: DatasetShape,
    parameters: TrainingParameters,
) -> JobTooLarge:
    nearest = max(known, key=lambda place: place.memory_bytes / max(1, needed[place].least))
    memory = needed[nearest]
    parts = {part.value: size for part, size in memory.parts if size}
    trainer = nearest.names[0] if nearest.names else ""
    error = JobTooLarge(nearest.device_class, memory.least, nearest.memory_bytes, trainer, parts)
    suggestion = most_that_fits(model, dataset, parameters, nearest)
    if suggestion is not None:
        error.would_fit = {
            "sampling.max_frames": suggestion.max_frames,
            "sampling.max_pixels": suggestion.max_pixels,
            "optimization.batch_size": suggestion.batch_size,
        }
    return error
