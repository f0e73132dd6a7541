"""Bad tokens at the edge and at each service's own port: UNAUTHENTICATED everywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reeltune.auth.v1 import user_service_pb2, user_service_pb2_grpc
from reeltune.catalog.v1 import dataset_service_pb2, dataset_service_pb2_grpc
from reeltune.scheduler.v1 import training_service_pb2, training_service_pb2_grpc
from reeltune.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc

from meshkit.auth.tokens import TokenSigner, generate_private_key
from tests.e2e.running_mesh import RunningMesh, SignedIn

MINUTES = timedelta(minutes=10)


class Forge:
    """Makes tokens, with the mesh's own key where a test wants only one thing to be wrong."""

    def __init__(self, mesh: RunningMesh, user: SignedIn) -> None:
        self.user = user
        head, claims, self.signature = user.token.split(".")
        self.header: dict[str, Any] = decoded(head)
        self.claims: dict[str, Any] = decoded(claims)
        newest = max((mesh.data / "auth" / "keys").glob("signing-*.pem"))
        self.key = newest.read_bytes()

    def signed(self, ttl: timedelta = MINUTES, *, key: bytes | None = None, **changes: str) -> str:
        made = {
            "kid": self.header["kid"],
            "issuer": "reeltune-auth",
            "audience": "reeltune",
            "typ": "at+jwt",
            **changes,
        }
        claims = {name: self.claims[name] for name in ("roles", "sid") if name in self.claims}
        return TokenSigner(key or self.key, **made).sign(self.user.user_id, ttl, claims)


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


BAD_TOKENS: dict[str, Callable[[Forge], str]] = {
    "garbage": lambda forge: "garbage",
    "alg-none": lambda forge: f"{encoded({**forge.header, 'alg': 'none'})}.{encoded(forge.claims)}.",
    "alg-hs256": lambda forge: f"{encoded({**forge.header, 'alg': 'HS256'})}.{encoded(forge.claims)}.{forge.signature}",
    "own-role": lambda forge: (
        f"{encoded(forge.header)}.{encoded({**forge.claims, 'roles': ['admin']})}.{forge.signature}"
    ),
    "foreign-key": lambda forge: forge.signed(key=generate_private_key()),
    "unknown-kid": lambda forge: forge.signed(kid="nobody"),
    "expired": lambda forge: forge.signed(-MINUTES),
    "other-audience": lambda forge: forge.signed(audience="reeltune-workers"),
    "other-issuer": lambda forge: forge.signed(issuer="reeltune-scheduler"),
    "worker-type": lambda forge: forge.signed(typ="wk+jwt"),
    "no-type": lambda forge: forge.signed(typ="JWT"),
}

CALLS: dict[str, Callable[[grpc.aio.Channel], tuple[Any, Any]]] = {
    "auth": lambda c: (user_service_pb2_grpc.UserServiceStub(c).GetMe, user_service_pb2.GetMeRequest()),
    "catalog": lambda c: (
        dataset_service_pb2_grpc.DatasetServiceStub(c).ListDatasets,
        dataset_service_pb2.ListDatasetsRequest(),
    ),
    "scheduler": lambda c: (
        training_service_pb2_grpc.TrainingServiceStub(c).ListTrainingJobs,
        training_service_pb2.ListTrainingJobsRequest(),
    ),
    "trainer": lambda c: (
        trainer_service_pb2_grpc.TrainerServiceStub(c).GetDevice,
        trainer_service_pb2.GetDeviceRequest(),
    ),
}


@pytest.fixture
async def forge(stack: RunningMesh) -> Forge:
    return Forge(stack, await stack.sign_up())


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_bad_token_is_refused_at_the_edge(stack: RunningMesh, forge: Forge, name: str) -> None:
    token = BAD_TOKENS[name](forge)

    for path in ("/v1/users/me", "/v1/datasets", "/v1/trainings", "/v1/workers"):
        answer = await stack.http.get(path, headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (401, 16), path
        assert answer.json()["details"][0]["reason"] == "TOKEN_INVALID"


@pytest.mark.parametrize("service", CALLS)
async def test_bad_tokens_are_refused_at_each_services_own_port(stack: RunningMesh, forge: Forge, service: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port(service)}") as channel:
        for name, make in BAD_TOKENS.items():
            assert await failure(channel, service, make(forge)) == "TOKEN_INVALID", name
        assert await failure(channel, service, None) == "TOKEN_MISSING"

        method, request = CALLS[service](channel)
        await method(request, metadata=forge.user.metadata, timeout=60)
        await method(request, metadata=(("authorization", f"Bearer {forge.signed()}"),), timeout=60)


async def failure(channel: grpc.aio.Channel, service: str, token: str | None) -> str:
    method, request = CALLS[service](channel)
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    call = method(request, metadata=metadata, timeout=60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in (await rpc_status.aio.from_call(call)).details)
    return info.reason
