"""Makes a trainer known."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

import structlog

from meshkit.ids import new_id
from scheduler_svc.domain.errors import JoinSecretInvalid
from scheduler_svc.domain.ids import WorkerId
from scheduler_svc.domain.job import Recipe
from scheduler_svc.domain.worker import Device
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.issue_tokens import IssuedToken, TokenIssuer


@dataclass(frozen=True, slots=True)
class Registration:
    """What a trainer says of itself."""

    join_secret: str
    worker_id: WorkerId | None
    """Of an earlier registration."""
    name: str
    device: Device
    version: str
    recipes: tuple[Recipe, ...]


async def register_worker(
    registration: Registration, join_secret: str, workers: WorkerStore, issuer: TokenIssuer
) -> tuple[WorkerId, IssuedToken]:
    """Returns the worker's id and token. Raises JoinSecretInvalid."""
    if not hmac.compare_digest(registration.join_secret.encode(), join_secret.encode()):
        raise JoinSecretInvalid("the join secret is not this mesh's")
    worker_id = registration.worker_id or WorkerId(new_id("wrk"))
    await workers.register(
        worker_id, registration.name, registration.device, registration.version, registration.recipes
    )
    structlog.get_logger().info(
        "worker.registered",
        worker_id=worker_id,
        name=registration.name,
        device_class=registration.device.device_class,
        version=registration.version,
        is_known=registration.worker_id is not None,
    )
    return worker_id, issuer.worker_token(worker_id)
