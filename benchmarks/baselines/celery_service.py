"""The classic way to accept a job: FastAPI, a row in Postgres, then a Celery task in RabbitMQ.

`uvicorn benchmarks.baselines.celery_service:app`, configured by the environment. One row is inserted and committed,
then `.delay()` publishes a persistent message to a durable queue and waits until the broker confirms it. A crash
between the two leaves a job that nobody will ever run: what an outbox is for, and what this service has not.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
import jwt
from celery import Celery
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Depends, FastAPI, Header, HTTPException, status
from kombu import Queue

from benchmarks.baselines.celery_job import INSERT, Job, JobRequest
from meshkit.auth.keys import StaticKeys
from meshkit.auth.principal import Caller, Principal
from meshkit.auth.tokens import TokenRejected, TokenVerifier, TrustedIssuer
from meshkit.ids import new_id

POOL_SIZE = 16
PUBLISHERS = 4
"""Threads that publish, as `.delay()` blocks; measured with 1, 4 and 16."""

tasks = Celery("baseline", broker=os.environ["BASELINE_BROKER"])
tasks.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=PUBLISHERS,
    task_default_queue="trainings",
    task_queues=[Queue("trainings", durable=True)],
    task_default_delivery_mode="persistent",
    task_ignore_result=True,
)


@tasks.task(name="train")
def train(job_id: str) -> None:
    """Would train; nobody consumes here."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["BASELINE_POSTGRES_DSN"], min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        app.state.pool = pool
        with ThreadPoolExecutor(PUBLISHERS) as publishers:
            app.state.publishers = publishers
            yield


app = FastAPI(lifespan=lifespan)


def _verifier() -> TokenVerifier:
    """The very verification of our services, its memory of recent tokens included."""
    keys = {
        jwk["kid"]: jwt.PyJWK(jwk, algorithm="ES256").key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for jwk in json.loads(os.environ["BASELINE_JWKS"])["keys"]
    }
    return TokenVerifier([TrustedIssuer("reeltune-auth", "reeltune", "at+jwt", Caller.USER, StaticKeys(keys))])


verifier = _verifier()


async def caller(authorization: Annotated[str, Header()]) -> Principal:
    try:
        return await verifier.verify(authorization.removeprefix("Bearer "))
    except TokenRejected as error:
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "the token is not valid") from error


@app.get("/health")
async def health() -> str:
    return "ok"


@app.post("/trainings", status_code=status.HTTP_201_CREATED)
async def create_training_job(request: JobRequest, principal: Annotated[Principal, Depends(caller)]) -> Job:
    job_id = new_id("job")
    create_time = await app.state.pool.fetchval(
        INSERT,
        job_id,
        principal.subject,
        request.name,
        request.model_id,
        request.dataset_id,
        request.parameters.model_dump_json(),
        request.device_class,
    )
    await asyncio.get_running_loop().run_in_executor(app.state.publishers, train.delay, job_id)
    return Job(
        id=job_id,
        name=request.name,
        owner_id=principal.subject,
        model_id=request.model_id,
        dataset_id=request.dataset_id,
        parameters=request.parameters,
        device_class=request.device_class,
        create_time=create_time,
        update_time=create_time,
    )
