"""Registered trainers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from meshkit.batching import SharedCalls
from meshkit.postgres import Connection, Pool, Queries
from scheduler_svc.domain.errors import WorkerNotFound
from scheduler_svc.domain.estimate.place import KnownDevice, Place
from scheduler_svc.domain.ids import JobId, WorkerId
from scheduler_svc.domain.job import DeviceClass, Recipe
from scheduler_svc.domain.request_key import RequestKey
from scheduler_svc.domain.worker import Device, Worker
from scheduler_svc.store.job_changes import notify_job
from scheduler_svc.store.request_store import AnswerCodec, answer_once
from scheduler_svc.store.rows import worker_from_json, worker_from_row, worker_to_json

_WORKER = AnswerCodec(worker_to_json, worker_from_json)

_GOOD_FOR_SECONDS = 0.1


class WorkerStore:
    """Workers: visible to every signed-in user."""

    def __init__(self, pool: Pool, queries: Queries, lease: timedelta) -> None:
        self._pool = pool
        self._sql = queries
        self._lease = lease
        self._four_bit_problems = SharedCalls(self._find_four_bit_problem, good_for_seconds=_GOOD_FOR_SECONDS)
        self._devices = SharedCalls(self._list_devices, good_for_seconds=_GOOD_FOR_SECONDS)

    async def register(
        self, worker_id: WorkerId, name: str, device: Device, version: str, recipes: Sequence[Recipe]
    ) -> None:
        """Makes a worker known, or brings a known one up to date."""
        await self._pool.execute(
            self._sql.upsert_worker,
            worker_id,
            name,
            device.device_class,
            device.can_train_4bit,
            asdict(device),
            version,
            device.device_count,
            device.memory_bytes,
            list(recipes),
        )
        self._four_bit_problems.forget()
        self._devices.forget()

    async def get(self, worker_id: WorkerId) -> Worker:
        """Returns a worker. Raises WorkerNotFound."""
        return await self._get(self._pool, worker_id)

    async def list_page(self, after: tuple[str, str] | None, limit: int) -> Sequence[Worker]:
        """Returns workers by name, from after a position on."""
        rows = await self._pool.fetch(self._sql.list_workers, *(after or (None, None)), limit, self._lease)
        return [worker_from_row(row) for row in rows]

    async def drain(self, worker_id: WorkerId, key: RequestKey | None) -> Worker:
        """Takes a worker out of service and has it give back what it trains; returns it as it is then.

        Raises:
            WorkerNotFound: it is not known.
            RequestIdReused: the key belongs to another request.
        """

        async def act(connection: Connection) -> Worker:
            row = await connection.fetchrow(self._sql.drain_worker, worker_id)
            if row is None:
                raise WorkerNotFound(worker_id)
            # Wakes the streams of its attempts, on whatever replica they are.
            for job_id in row["job_ids"]:
                await notify_job(connection, self._sql, JobId(job_id), "state")
            return await self._get(connection, worker_id)

        return await answer_once(self._pool, self._sql, key, act, _WORKER)

    async def resume(self, worker_id: WorkerId, key: RequestKey | None) -> Worker:
        """Puts a worker back into service; returns it as it is then. Raises WorkerNotFound, RequestIdReused."""

        async def act(connection: Connection) -> Worker:
            if await connection.fetchval(self._sql.resume_worker, worker_id) is None:
                raise WorkerNotFound(worker_id)
            return await self._get(connection, worker_id)

        return await answer_once(self._pool, self._sql, key, act, _WORKER)

    async def offers(self, recipe: Recipe) -> bool:
        """Tells whether a worker that is known, be it lost for the moment, offers a recipe."""
        offered: bool = await self._pool.fetchval(self._sql.is_recipe_offered, recipe)
        return offered

    def four_bit_problem(self, device_class: DeviceClass) -> asyncio.Future[str | None]:
        """Asks why no known worker of the class can train 4-bit layers; None when one can, or none is known."""
        return self._four_bit_problems.ask(device_class)

    async def _find_four_bit_problem(self, device_class: DeviceClass) -> str | None:
        row = await self._pool.fetchrow(self._sql.four_bit_problem, device_class)
        return (row["problem"] or "its probe failed") if row is not None and row["all_unfit"] else None

    def devices(self) -> asyncio.Future[tuple[KnownDevice, ...]]:
        """Asks for the devices of all known workers that train in earnest, those of equal kind and size as one."""
        return self._devices.ask(None)

    async def _list_devices(self, _: None) -> tuple[KnownDevice, ...]:
        rows = await self._pool.fetch(self._sql.list_devices)
        return tuple(
            KnownDevice(
                Place(
                    DeviceClass(row["device_class"]),
                    row["memory_bytes"],
                    row["matmul_flops"] or 0.0,
                    row["decode_pixels"] or 0.0,
                    tuple(row["names"]),
                    is_emulated=bool(row["profile"]),
                ),
                device_count=row["device_count"],
                can_train_4bit=row["can_train_4bit"],
            )
            for row in rows
        )

    async def forget_lost(self, age: timedelta) -> None:
        """Forgets workers that have not been heard of for so long."""
        await self._pool.execute(self._sql.delete_lost_workers, age)

    async def _get(self, connection: Connection | Pool, worker_id: WorkerId) -> Worker:
        row = await connection.fetchrow(self._sql.select_worker, worker_id, self._lease)
        if row is None:
            raise WorkerNotFound(worker_id)
        return worker_from_row(row)
