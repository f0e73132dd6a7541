"""What users were told during a soak, and whether the mesh stands by it in the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2

from tests.faults.lifecycle_model import name
from tests.faults.mesh_user import Ended, MeshUser
from tests.faults.soak_ends import Orders, wrong_end

_AT_ONCE = 8


@dataclass
class Record:
    """One accepted job, as its owner knows it."""

    owner: MeshUser
    job_id: str
    orders: Orders
    answers: list[job_pb2.TrainingJob] = field(default_factory=list)
    """What Create and the verbs answered OK."""
    watches: list[list[job_event_pb2.JobEvent]] = field(default_factory=list)
    """What each watcher was told, over all its connections."""
    is_deleted: bool = False


@dataclass
class Verdict:
    """What was found wrong, by kind; the texts say what."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    illegal: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    wrong_ends: list[str] = field(default_factory=list)
    """Jobs that ended as they should not by what they were told to do."""
    unforeseen: list[str] = field(default_factory=list)
    """Answers that no contract knows, and troubles of the harness."""
    states: Counter[str] = field(default_factory=Counter)
    """How the jobs ended."""
    attempts: int = 0

    @property
    def is_good(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> list[str]:
        return [*self.lost, *self.double, *self.illegal, *self.gaps, *self.wrong_ends, *self.unforeseen]


class Ledger:
    """Every job that was accepted."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.verdict = Verdict()
        self._ended: dict[str, Ended] = {}

    def accepted(
        self, owner: MeshUser, job: job_pb2.TrainingJob, parameters: parameters_pb2.TrainingParameters
    ) -> Record:
        """Notes a job whose Create, with these parameters, was answered OK."""
        return self.records.setdefault(job.id, Record(owner, job.id, Orders(parameters), [job]))

    async def settle(self, seconds: float) -> None:
        """Waits for every job's end, and holds its history against the model and against what its owner was told."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def settle(record: Record) -> None:
            async with turns:
                await self._settle(record, seconds)

        async with asyncio.TaskGroup() as group:
            for record in self.records.values():
                group.create_task(settle(record))

    def check_watches(self) -> None:
        """Holds what every watch told against the stored events."""
        for job_id, ended in self._ended.items():
            for told in self.records[job_id].watches:
                _check_watch(job_id, told, ended.events, self.verdict)

    async def _settle(self, record: Record, seconds: float) -> None:
        try:
            if record.is_deleted:
                await _check_deleted(record, self.verdict)
                return
            ended = await record.owner.ended(record.job_id, seconds)
        except grpc.aio.AioRpcError as error:
            told = f"{record.job_id} was accepted and answers {error.code().name} {error.details()}"
            self.verdict.lost.append(told)
            return
        except AssertionError as error:
            _kind_of(str(error), self.verdict).append(f"{record.job_id}: {error}")
            return
        is_plain = ended.reason == "UNSPECIFIED"
        self.verdict.states[ended.state if is_plain else f"{ended.state} {ended.reason}"] += 1
        self.verdict.attempts += len(ended.life.attempts)
        self._ended[record.job_id] = ended
        _check_answers(record, ended.events, self.verdict)
        if (wrong := wrong_end(record.orders, ended.events)) is not None:
            self.verdict.wrong_ends.append(f"{record.job_id} {wrong}")


async def _check_deleted(record: Record, verdict: Verdict) -> None:
    try:
        job = await record.owner.get(record.job_id)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            verdict.states["deleted"] += 1
            return
        raise
    verdict.lost.append(f"{record.job_id} was deleted, OK, and is {name(job.state)}")


def _kind_of(problem: str, verdict: Verdict) -> list[str]:
    if "at place" in problem:
        return verdict.gaps
    if "after" in problem and " s: " in problem:
        return verdict.lost
    return verdict.double if "attempt" in problem else verdict.illegal


def _check_answers(record: Record, events: Sequence[job_event_pb2.JobEvent], verdict: Verdict) -> None:
    """Every write that was answered OK is in the history: up to the answer's event the job became what it said."""
    for answer in record.answers:
        changes = [event.state_change.to for event in events[: answer.sequence] if event.HasField("state_change")]
        if len(events) < answer.sequence or not changes or changes[-1] != answer.state:
            told = f"{name(answer.state)} at event {answer.sequence}"
            verdict.lost.append(f"{record.job_id} was answered {told}; its {len(events)} events do not say so")


def _check_watch(
    job_id: str, told: Sequence[job_event_pb2.JobEvent], events: Sequence[job_event_pb2.JobEvent], verdict: Verdict
) -> None:
    """A watch tells every event once and in order; of progress alone it may leave something out."""
    stored = {event.sequence: event for event in events}
    numbers = [event.sequence for event in told]
    if numbers != sorted(set(numbers)):
        verdict.gaps.append(f"{job_id}: a watch told {numbers}")
    if any(stored.get(event.sequence) != event for event in told):
        verdict.gaps.append(f"{job_id}: a watch told an event that is not in the history")
    if numbers:
        missing = set(stored) - set(numbers)
        untold = [number for number in missing if numbers[0] < number < numbers[-1]]
        if any(not stored[number].HasField("progress") for number in untold):
            verdict.gaps.append(f"{job_id}: a watch left out {sorted(untold)}")
