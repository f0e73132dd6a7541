"""What users do during a soak: everything that a user can do, at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from typing import Any

import grpc
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import training_verbs_pb2 as verbs_pb

from reeltune_cli.client import ClientError
from reeltune_cli.client.watch import watch_job
from tests.faults.mesh_user import MeshUser, rehearsal
from tests.faults.soak_ledger import Ledger, Record

_PATIENCE_SECONDS = 120.0
_REFUSALS = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND})
"""Answers that a verb may get: the job is not, or is no more, where it would have to be."""
_MISBEHAVIORS = (
    ("CRASH", 3), ("EXIT", 2), ("HANG", 1), ("SPIN", 1), ("KILL_WORKER", 2), ("IGNORE_ORDERS", 0),
    ("OUT_OF_MEMORY", 0), ("NON_FINITE_LOSS", 0), ("BAD_DATA", 0), ("NONSENSE", 2), ("SLOW_STOP", 0),
)  # fmt: skip
"""What goes wrong, and in how many attempts at most; 0 for all."""


class Traffic:
    """One user's doings."""

    def __init__(self, user: MeshUser, ledger: Ledger, dice: random.Random, most_waiting: int) -> None:
        self.done: Counter[str] = Counter()
        self._user = user
        self._ledger = ledger
        self._dice = dice
        self._most_waiting = most_waiting
        self._watching: set[asyncio.Task[None]] = set()
        self._mine: list[Record] = []
        self._is_over = False

    async def run(self) -> None:
        """Does things until it is told to stop; what was begun is done to its end, so that its answer is known."""
        doings = {
            self._submit: 8, self._watch: 4, self._stop: 2, self._pause: 2, self._resume: 2, self._retry: 3,
            self._delete: 1, self._list: 1,
        }  # fmt: skip
        while not self._is_over:
            await asyncio.sleep(self._dice.uniform(0.1, 1.2))
            (doing,) = self._dice.choices(list(doings), list(doings.values()))
            await self._guarded(doing())

    def stop(self) -> None:
        """Has `run` end after what it is doing."""
        self._is_over = True

    async def finish(self) -> None:
        """Gives every paused job back to the trainers, and ends the watches, which have time to tell the rest."""
        for record in self._mine:
            if not record.is_deleted:
                await self._verb(record, "ResumeTrainingJob", verbs_pb.ResumeTrainingJobRequest)

    async def until_watches_end(self, seconds: float) -> None:
        """Waits for the watches, all of whose jobs have ended; what does not end has left something untold."""
        if self._watching:
            _, pending = await asyncio.wait(self._watching, timeout=seconds)
            self._ledger.verdict.gaps += [f"the {task.get_name()} did not tell the end" for task in pending]

    async def close(self) -> None:
        """Ends the watches."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _guarded(self, doing: Any) -> None:
        try:
            await doing
        except grpc.aio.AioRpcError as error:
            self._ledger.verdict.unforeseen.append(f"{error.code().name}: {error.details()}")
        except ClientError as error:
            self._ledger.verdict.unforeseen.append(f"the client: {error}")

    async def _submit(self) -> None:
        if len(await self._active()) >= self._most_waiting:
            return
        request = self._user.request(self._parameters(), priority=self._dice.randint(-5, 5))
        job = await self._user.patiently(
            lambda: self._user.client.training.CreateTrainingJob(request, timeout=5), _PATIENCE_SECONDS
        )
        self._mine.append(self._ledger.accepted(self._user, job.job, request.parameters))
        self.done["submit"] += 1

    async def _active(self) -> list[str]:
        request = pb.ListTrainingJobsRequest(page_size=1000, filter="state = QUEUED")
        response: pb.ListTrainingJobsResponse = await self._user.ask("ListTrainingJobs", request)
        return [job.id for job in response.jobs]

    def _parameters(self) -> parameters_pb2.TrainingParameters:
        dice = self._dice
        if dice.random() < 0.3:
            kind, most = dice.choice(_MISBEHAVIORS)
            attempts = dice.randint(1, most) if most else 0
            return rehearsal(dice.randint(3, 12), dice.choice((0, 20, 100)), (kind, dice.randint(0, 4), attempts))
        if dice.random() < 0.2:
            return rehearsal(dice.randint(20, 60), dice.choice((50, 100)), checkpoint_every_steps=5)
        return rehearsal(dice.randint(1, 8), dice.choice((0, 10, 50)), artifact_bytes=dice.choice((100, 200_000)))

    async def _stop(self) -> None:
        await self._some_verb("StopTrainingJob", pb.StopTrainingJobRequest)

    async def _pause(self) -> None:
        await self._some_verb("PauseTrainingJob", verbs_pb.PauseTrainingJobRequest)

    async def _resume(self) -> None:
        await self._some_verb("ResumeTrainingJob", verbs_pb.ResumeTrainingJobRequest)

    async def _retry(self) -> None:
        await self._some_verb(
            "RetryTrainingJob", verbs_pb.RetryTrainingJobRequest, from_scratch=self._dice.random() < 0.3
        )

    async def _delete(self) -> None:
        record = self._pick()
        if record is None:
            return
        request = pb.DeleteTrainingJobRequest(job_id=record.job_id, request_id=self._uuid())
        try:
            await self._user.patiently(
                lambda: self._user.client.training.DeleteTrainingJob(request, timeout=5), _PATIENCE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS:
                raise
            return
        record.is_deleted = True
        self.done["delete"] += 1

    async def _list(self) -> None:
        known = set(await self._user.list_ids())
        gone = [each.job_id for each in self._mine if not each.is_deleted and each.job_id not in known]
        self._ledger.verdict.unforeseen += [f"the list left out {job_id}" for job_id in gone]
        self.done["list"] += 1

    async def _watch(self) -> None:
        record = self._pick(recent=True)
        if record is None or len(self._watching) > 8:
            return
        task = asyncio.create_task(self._guarded(self._keep_watching(record)), name=f"watch of {record.job_id}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        self.done["watch"] += 1

    async def _keep_watching(self, record: Record) -> None:
        """Watches in bits, some of which end in the middle, each going on where the one before ended."""
        told: list[Any] = []
        record.watches.append(told)
        is_over = False
        while not is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._dice.uniform(0.5, 20)):
                    is_over = await self._watch_on(record, told)

    async def _watch_on(self, record: Record, told: list[Any]) -> bool:
        try:
            async for message in watch_job(self._user.client, record.job_id, told[-1].sequence if told else 0):
                told.extend([message.event] if message.HasField("event") else [])
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        return True

    async def _some_verb(self, method: str, request_type: Any, **fields: Any) -> None:
        record = self._pick(recent=method != "RetryTrainingJob")
        if record is not None:
            await self._verb(record, method, request_type, **fields)

    async def _verb(self, record: Record, method: str, request_type: Any, **fields: Any) -> None:
        request = request_type(job_id=record.job_id, request_id=self._uuid(), **fields)
        call = getattr(self._user.client.training, method)
        try:
            answer = await self._user.patiently(lambda: call(request, timeout=5), _PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS:
                raise
            return
        record.answers.append(answer.job)
        if method == "StopTrainingJob":
            record.orders.stops.append(answer.job.sequence)
        elif method == "RetryTrainingJob":
            record.orders.retries.append(answer.job.sequence)
        self.done[method.removesuffix("TrainingJob").lower()] += 1

    def _pick(self, *, recent: bool = False) -> Record | None:
        there = [record for record in self._mine if not record.is_deleted]
        return self._dice.choice(there[-10:] if recent else there) if there else None

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
