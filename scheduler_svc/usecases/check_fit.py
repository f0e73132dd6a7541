"""Refuses jobs that no registered trainer can hold, and rows that the model cannot take, before they wait.

Every job passes here, so that all is remembered: a dataset's rows, and what was found of a job that asks for the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scheduler_svc.clients.dataset_shapes import DatasetShapes
from scheduler_svc.domain.errors import ContextExceeded, JobTooLarge, SchedulerError
from scheduler_svc.domain.estimate.facts import DatasetShape, FrameBudget, ModelShape, RowShape
from scheduler_svc.domain.estimate.fit import changes_that_fit, most_frames_within_context
from scheduler_svc.domain.estimate.memory import Memory, estimate_memory
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.domain.estimate.tokens import count_tokens, rows_over_context
from scheduler_svc.domain.job import DeviceClass, Needs, Recipe
from scheduler_svc.domain.parameters import DatasetFacts, ModelFacts, TrainingParameters
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.search import search_for_submission

_UNKNOWN = DatasetShape(())
_WAIT_SECONDS = 1.5
"""For the catalog to count a dataset's rows; the job is accepted without."""
_SAMPLES = 5
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a verdict depends on."""

    model: ModelShape
    dataset: DatasetShape
    parameters: TrainingParameters
    device_class: DeviceClass
    device_count: int
    places: tuple[Place, ...]
    places_4bit: frozenset[Place] = frozenset()
    """Of them, those that can train in 4 bits."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was found of a job."""

    least: int = 0
    """Bytes that a device must have for it to have a chance."""
    refusal: Callable[[], SchedulerError] | None = None


class FitCheck:
    """Holds jobs against the trainers that are registered, and remembers what it found."""

    def __init__(self, workers: WorkerStore, shapes: DatasetShapes) -> None:
        self._workers = workers
        self._shapes = shapes
        self._verdicts: OrderedDict[_Asked, _Verdict] = OrderedDict()

    async def check(
        self, parameters: TrainingParameters, model: ModelFacts, dataset: DatasetFacts, needs: Needs, token: str
    ) -> int:
        """Returns the bytes that a device must have for the job to have a chance; 0 where too little is known.

        Raises:
            ContextExceeded: some rows are certainly longer than the model takes.
            JobTooLarge: no registered trainer that could hold the job otherwise has as much memory as it certainly
                takes.
        """
        if model.shape is None or needs.recipe is not Recipe.QLORA:
            return 0
        shape = self._shapes.known(dataset.id)
        if shape is None:
            shape = await self._shapes.get(dataset, token, wait_seconds=_WAIT_SECONDS) or _UNKNOWN
        found = self._workers.devices()
        devices = found.result() if found.done() else await found
        serving = [each for each in devices if each.serves(needs) and each.place.memory_bytes]
        asked = _Asked(
            *(model.shape, shape, parameters, needs.device_class, needs.device_count),
            places=tuple(each.place for each in serving),
            places_4bit=frozenset(each.place for each in serving if each.can_train_4bit),
        )
        verdict = await self._verdict(asked)
        if verdict.refusal is not None:
            raise verdict.refusal()
        return verdict.least

    async def _verdict(self, asked: _Asked) -> _Verdict:
        verdict = self._verdicts.get(asked)
        if verdict is None:
            verdict = await search_for_submission(self._judge_once, asked)
            self._verdicts[asked] = verdict
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        return verdict

    def _judge_once(self, asked: _Asked) -> _Verdict:
        # Whoever asked for the same just before may have been answered while this one waited.
        return self._verdicts.get(asked) or _judge(asked)


def _judge(asked: _Asked) -> _Verdict:
    over = rows_over_context(asked.model, asked.dataset, asked.parameters.sampling)
    if over:
        refusal = partial(
            _too_long,
            remedy=_remedy(asked.model, over[0][0]),
            tokens=over[0][1],
            context_length=asked.model.context_length,
            rows=sum(shape.rows for shape, _ in over),
            samples=[shape.sample_id for shape, _ in over[:_SAMPLES]],
            max_frames=most_frames_within_context(asked.model, asked.dataset, asked.parameters.sampling),
        )
        return _Verdict(refusal=refusal)
    if not asked.places:
        return _Verdict()
    needed = {place: _memory(asked, place) for place in asked.places}
    if all(memory.least > place.memory_bytes for place, memory in needed.items()):
        return _Verdict(refusal=partial(_too_large, *_nearest(asked, needed)))
    # A trainer of a class that is not there yet may need less.
    classes = [
        each for each in DeviceClass if each is not DeviceClass.ANY and asked.device_class in (DeviceClass.ANY, each)
    ]
    others = [_memory(asked, Place(device_class)) for device_class in classes]
    return _Verdict(min(memory.least for memory in (*needed.values(), *others)))


def _remedy(model: ModelShape, longest: RowShape) -> str:
    """What helps where fewer frames for all do not."""
    if any(clip.max_frames for clip in longest.clips):
        return "lower the max_frames that such rows set for themselves"
    if model.frame_rule is not None and model.frame_rule.budget is FrameBudget.FIXED:
        return "show fewer clips in a row"
    return "lower sampling.max_pixels"


def _too_long(remedy: str, **found: Any) -> ContextExceeded:
    error = ContextExceeded(**found)
    error.remedy = remedy
    return error


def _memory(asked: _Asked, place: Place) -> Memory:
    tokens = count_tokens(asked.model, asked.dataset, asked.parameters.sampling)
    return estimate_memory(asked.model, tokens, asked.parameters, place, asked.device_count)


def _nearest(asked: _Asked, needed: dict[Place, Memory]) -> tuple[Place, Memory, dict[str, int | str]]:
    """The place that comes nearest, what the job takes there, and with which parameters it would fit."""
    place = max(needed, key=lambda place: place.memory_bytes / max(1, needed[place].least))
    would_fit = changes_that_fit(
        *(asked.model, asked.dataset, asked.parameters, place, asked.device_count),
        can_train_4bit=place in asked.places_4bit,
    )
    return place, needed[place], would_fit


def _too_large(place: Place, memory: Memory, would_fit: dict[str, int | str]) -> JobTooLarge:
    parts = {part.value: size for part, size in memory.least_parts if size}
    trainer = place.names[0] if place.names else ""
    error = JobTooLarge(place.device_class, memory.least, place.memory_bytes, trainer, parts)
    error.would_fit = would_fit
    return error
