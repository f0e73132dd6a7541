"""Small services behind the edge: real gRPC servers with meshkit's interceptors and a few of the contracts' rpcs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc
from reeltune.catalog.v1 import dataset_service_pb2, dataset_service_pb2_grpc
from reeltune.scheduler.v1 import (
    attempt_service_pb2,
    attempt_service_pb2_grpc,
    quota_service_pb2,
    quota_service_pb2_grpc,
    training_history_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)
from reeltune.trainer.v1 import inference_service_pb2, inference_service_pb2_grpc

from meshkit.auth.keys import StaticKeys
from meshkit.auth.principal import Caller, current_principal
from meshkit.auth.tokens import TokenSigner, TokenVerifier, TrustedIssuer, generate_private_key, public_jwk, public_pem
from meshkit.lifecycle import set_health
from meshkit.rpc.failure import Failure
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.server import BoundServer, build_server
from meshkit.settings import ServiceSettings

ISSUER = "reeltune-auth"
AUDIENCE = "reeltune"
KNOWN_JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"
FLOODING_JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FF0"
"""Its watch sends as much as it is let."""
STEPWISE_JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FF1"
"""Its watch sends one line at a time; see `TrainingServicer.next_line`."""
PASSWORD = "correct horse battery"


@dataclass(slots=True)
class Keys:
    """The auth service's signing key; `rotate` replaces it."""

    kid: str = "k1"
    pem: bytes = field(default_factory=generate_private_key)

    def rotate(self, kid: str) -> None:
        self.kid, self.pem = kid, generate_private_key()

    def token(
        self, subject: str = "usr_1", *, ttl: timedelta = timedelta(minutes=10), role: str = "user", **changes: str
    ) -> str:
        made = {"kid": self.kid, "issuer": ISSUER, "audience": AUDIENCE, "typ": "at+jwt", **changes}
        return TokenSigner(self.pem, **made).sign(subject, ttl, {"roles": [role], "sid": "ses_1"})

    def verifier(self) -> TokenVerifier:
        keys = StaticKeys({self.kid: public_pem(self.pem)})
        return TokenVerifier([TrustedIssuer(ISSUER, AUDIENCE, "at+jwt", Caller.USER, keys)])


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def Login(self, request: Any, context: Any) -> Any:
        if request.password != PASSWORD:
            raise Failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", "unknown user or wrong password")
        response = auth_service_pb2.LoginResponse()
        response.user.username = request.username
        response.tokens.access_token = self._keys.token(request.username)
        return response

    async def GetJwks(self, request: Any, context: Any) -> Any:
        return auth_service_pb2.GetJwksResponse(keys=[public_jwk(self._keys.pem, self._keys.kid)])  # type: ignore[list-item]


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    async def GetMe(self, request: Any, context: Any) -> Any:
        response = user_service_pb2.GetMeResponse()
        response.user.id = current_principal().subject
        return response


class DatasetServicer(dataset_service_pb2_grpc.DatasetServiceServicer):
    async def CreateDataset(self, request: Any, context: Any) -> Any:
        response = dataset_service_pb2.CreateDatasetResponse()
        response.dataset.name = request.name
        return response


class TrainingServicer(training_service_pb2_grpc.TrainingServiceServicer):
    def __init__(self) -> None:
        self.flood_bytes = 0
        self.next_line = asyncio.Event()
        """Lets a watch of `STEPWISE_JOB` go on after each line."""
        self.header_names: set[str] = set()
        """Of what `GetTrainingJob` was asked with last."""

    async def GetTrainingJob(self, request: Any, context: Any) -> Any:
        self.header_names = {name for name, _ in context.invocation_metadata()}
        if request.job_id != KNOWN_JOB:
            raise Failure(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "no such job", {"job_id": request.job_id})
        response = training_service_pb2.GetTrainingJobResponse()
        response.job.id = request.job_id
        response.job.name = 'quotes " and {braces}'
        return response

    async def ListTrainingJobs(self, request: Any, context: Any) -> Any:
        response = training_service_pb2.ListTrainingJobsResponse()
        response.jobs.add(id=KNOWN_JOB)
        return response

    async def StopTrainingJob(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while request.job_id == FLOODING_JOB:
            message = training_history_pb2.WatchTrainingJobResponse(sequence=1)
            message.event.log.text = "x" * 4000
            self.flood_bytes += 4000
            yield message
        for sequence in range(request.after_sequence + 1, 4):
            message = training_history_pb2.WatchTrainingJobResponse(sequence=sequence)
            message.event.sequence = sequence
            message.event.log.text = f"line {sequence}"
            yield message
            if request.job_id == STEPWISE_JOB:
                await self.next_line.wait()
                self.next_line.clear()
        if request.after_sequence >= 3:
            raise Failure(grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_AHEAD", "after_sequence is beyond the newest event")


class QuotaServicer(quota_service_pb2_grpc.QuotaServiceServicer):
    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def UpdateQuota(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return quota_service_pb2.UpdateQuotaResponse(quota=request.quota)

    async def DeleteQuota(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        response = quota_service_pb2.DeleteQuotaResponse()
        response.quota.user_id, response.quota.is_default = request.user_id, True
        return response


class AttemptServicer(attempt_service_pb2_grpc.AttemptServiceServicer):
    async def GetJwks(self, request: Any, context: Any) -> Any:
        return attempt_service_pb2.GetJwksResponse()


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers with its own name, so that a test sees who was asked."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        response = inference_service_pb2.GenerateResponse()
        response.text = self._name
        yield response


async def start_server(verifier: TokenVerifier, *registrations: ServicerRegistration) -> BoundServer:
    """Starts a server that says SERVING."""
    bound = build_server(ServiceSettings(), registrations, error_table={}, verifier=verifier)
    await bound.server.start()
    await set_health(bound, health_pb2.HealthCheckResponse.SERVING)
    return bound


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The running services."""

    keys: Keys
    auth: BoundServer
    catalog: BoundServer
    scheduler: BoundServer
    training: TrainingServicer
    quotas: QuotaServicer
    trainers: tuple[BoundServer, BoundServer]


@contextlib.asynccontextmanager
async def running_upstreams() -> AsyncIterator[Upstreams]:
    """Runs auth, catalog, scheduler and two trainers."""
    keys = Keys()
    verifier = keys.verifier()
    training, quotas = TrainingServicer(), QuotaServicer()
    started = [
        await start_server(
            verifier,
            ServicerRegistration(auth_service_pb2_grpc.add_AuthServiceServicer_to_server, AuthServicer(keys)),
            ServicerRegistration(user_service_pb2_grpc.add_UserServiceServicer_to_server, UserServicer()),
        ),
        await start_server(
            verifier,
            ServicerRegistration(dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server, DatasetServicer()),
        ),
        await start_server(
            verifier,
            ServicerRegistration(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, training),
            ServicerRegistration(attempt_service_pb2_grpc.add_AttemptServiceServicer_to_server, AttemptServicer()),
            ServicerRegistration(quota_service_pb2_grpc.add_QuotaServiceServicer_to_server, quotas),
        ),
        *[
            await start_server(
                verifier,
                ServicerRegistration(
                    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, InferenceServicer(name)
                ),
            )
            for name in ("trainer-a", "trainer-b")
        ],
    ]
    auth, catalog, scheduler, first, second = started
    try:
        yield Upstreams(keys, auth, catalog, scheduler, training, quotas, (first, second))
    finally:
        for bound in started:
            await bound.server.stop(None)
