"""Wake-ups for trainers, by JetStream."""

from __future__ import annotations

import json

from meshkit.jetstream import JetStream, NatsUnavailable, ensure_consumer, ensure_work_queue, publish
from scheduler_svc.domain.ids import JobId
from scheduler_svc.domain.job import DeviceClass

STREAM = "JOBS"
_SUBJECTS = {device_class: f"jobs.v1.{device_class.lower()}" for device_class in DeviceClass}


class WakeUps:
    """Publishes that a job waits."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._prepared_for = -1

    @property
    def connection(self) -> int:
        """Counts the connections made: a broker that comes back may have forgotten everything."""
        return self._jetstream.generation

    async def prepare(self) -> None:
        """Makes sure that the stream and its consumers are there, once for each connection. Raises NatsUnavailable.

        The consumers are made here and not by the trainers, which may take from them and change nothing.
        """
        connection = self._jetstream.generation
        if connection != self._prepared_for:
            await ensure_work_queue(self._jetstream, STREAM, sorted(_SUBJECTS.values()))
            for device_class, subject in _SUBJECTS.items():
                await ensure_consumer(self._jetstream, STREAM, f"trainers-{device_class.lower()}", subject)
            self._prepared_for = connection

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Waits for the broker. Raises NatsUnavailable after the timeout."""
        await self._jetstream.wait_connected(timeout_seconds)

    async def publish(self, job_id: JobId, generation: int, device_class: DeviceClass) -> None:
        """Publishes one wake-up and returns when the broker has it on disk. Raises NatsUnavailable."""
        payload = json.dumps({"job_id": job_id, "generation": generation}).encode()
        try:
            await publish(self._jetstream, _SUBJECTS[device_class], payload, msg_id=f"{job_id}:{generation}")
        except NatsUnavailable:
            # The stream itself may have gone, with the connection still standing.
            self._prepared_for = -1
            raise
