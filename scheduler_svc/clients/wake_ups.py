"""Wake-ups for trainers, by JetStream."""

from __future__ import annotations

import json
from collections.abc import Sequence

from meshkit.jetstream import JetStream, Message, NatsUnavailable, ensure_consumer, ensure_work_queue, publish_all
from scheduler_svc.domain.job import DeviceClass, WakeUp

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

    async def publish_all(self, wake_ups: Sequence[WakeUp]) -> Sequence[NatsUnavailable | None]:
        """Publishes wake-ups; returns for each None when the broker has it on disk, or why that is not known."""
        outcomes = await publish_all(self._jetstream, [_message(wake_up) for wake_up in wake_ups])
        if any(outcomes):
            # The stream itself may have gone, with the connection still standing.
            self._prepared_for = -1
        return outcomes


def _message(wake_up: WakeUp) -> Message:
    payload = json.dumps({"job_id": wake_up.job_id, "generation": wake_up.generation}).encode()
    return Message(_SUBJECTS[wake_up.device_class], payload, f"{wake_up.job_id}:{wake_up.generation}")
