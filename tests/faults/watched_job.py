"""A job that is watched from its first event to its last, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from reeltune.scheduler.v1 import job_event_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.testing import assert_eventually
from reeltune_cli.client import Client
from reeltune_cli.client.watch import watch_job
from tests.e2e.trained_job import get_job, submit
from tests.e2e.training_material import parameters
from tests.faults.conftest import Workplace

STEPS = 24
"""Some seconds of training, more on a busy machine."""
_CHECKPOINT_SECONDS = 300
_END_SECONDS = 600


class WatchedJob:
    """A job and what its watch has told so far."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self.events: list[job_event_pb2.JobEvent] = []
        self._client = client
        self._watching = asyncio.create_task(self._watch(), name="watch")

    async def until_checkpointed(self) -> None:
        """Returns once it is RUNNING with a checkpoint that counts, and is not at its end."""
        await self._until(lambda event: event.HasField("checkpoint"))
        assert not self._watching.done(), "the job ended before anything could be killed"

    async def until_ended(self) -> job_pb2.TrainingJob:
        """Returns the job once the watch has ended by itself."""
        await asyncio.wait_for(asyncio.shield(self._watching), _END_SECONDS)
        return await get_job(self._client, self.id)

    async def history(self) -> list[job_event_pb2.JobEvent]:
        """Returns all events as they are stored."""
        found: list[job_event_pb2.JobEvent] = []
        request = history.ListEventsRequest(job_id=self.id, page_size=100)
        while True:
            page = await self._client.training.ListEvents(request)
            found += page.events
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def close(self) -> None:
        """Ends the watch."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _until(self, is_it: Callable[[job_event_pb2.JobEvent], bool]) -> None:
        await assert_eventually(lambda: any(is_it(event) for event in self.events), timeout=_CHECKPOINT_SECONDS)

    async def _watch(self) -> None:
        async for message in watch_job(self._client, self.id):
            if message.HasField("event"):
                self.events.append(message.event)


@contextlib.asynccontextmanager
async def watched_job(workplace: Workplace, steps: int = STEPS) -> AsyncIterator[WatchedJob]:
    """Submits a job that saves a checkpoint every second step, and watches it."""
    wanted = parameters(steps, checkpoint_every_steps=2)
    job = WatchedJob(
        workplace.client, (await submit(workplace.client, workplace.model_id, workplace.dataset_id, wanted)).id
    )
    try:
        yield job
    finally:
        await job.close()
