"""Tokens at the edge: what is refused, over every door, and that keys rotate."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reeltune.auth.v1 import user_service_pb2, user_service_pb2_grpc

from meshkit.testing import assert_eventually
from tests.rpc.edge.conftest import Edge, has_keys, loopback, running_edge
from tests.rpc.edge.upstreams import Keys, Upstreams


def alg_none(keys: Keys) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims: dict[str, object] = {
        "iss": "reeltune-auth",
        "aud": "reeltune",
        "sub": "usr_1",
        "exp": 4102444800,
        "jti": "x",
    }
    return f"{part({'alg': 'none', 'typ': 'at+jwt', 'kid': keys.kid})}.{part(claims)}."


def tampered(keys: Keys) -> str:
    head, _, signature = keys.token("usr_1").split(".")
    return f"{head}.{keys.token('usr_2').split('.')[1]}.{signature}"


BAD_TOKENS: dict[str, Callable[[Keys], str]] = {
    "garbage": lambda keys: "garbage",
    "one-letter": lambda keys: "x",
    "alg-none": alg_none,
    "expired": lambda keys: keys.token(ttl=timedelta(minutes=-5)),
    "foreign-key": lambda keys: Keys(kid=keys.kid).token(),
    "unknown-kid": lambda keys: Keys(kid="other").token(),
    "other-issuer": lambda keys: keys.token(issuer="reeltune-scheduler"),
    "other-audience": lambda keys: keys.token(audience="reeltune-workers"),
    "tampered": tampered,
}


@pytest.mark.parametrize("make", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_a_bad_token_is_refused_over_json_and_grpc(edge: Edge, make: Callable[[Keys], str]) -> None:
    token = make(edge.keys)

    answer = await edge.http.get("/v1/users/me", headers=edge.bearer(token))
    assert answer.status_code == 401
    assert answer.json()["code"] == 16
    assert answer.json()["details"][0]["reason"] == "TOKEN_INVALID"

    status = await grpc_failure(edge, (("authorization", f"Bearer {token}"),))
    assert status == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_token_of_another_type_passes_the_edge_and_is_refused_by_the_service(edge: Edge) -> None:
    answer = await edge.http.get("/v1/users/me", headers=edge.bearer(edge.keys.token(typ="wk+jwt")))

    assert answer.status_code == 401
    assert answer.json()["details"][0]["reason"] == "TOKEN_INVALID"


async def test_no_token_is_refused_over_json_grpc_and_grpc_web(edge: Edge) -> None:
    answer = await edge.http.get("/users/me")
    assert (answer.status_code, answer.json()["code"]) == (401, 16)
    assert answer.json()["details"] == [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TOKEN_MISSING", "domain": "reeltune"}
    ]

    assert await grpc_failure(edge, ()) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")

    web = await edge.web.call("reeltune/auth/v1/user_service_pb", "UserService/GetMe")
    assert (web.code, web.reason) == (16, "TOKEN_MISSING")


async def test_a_token_in_the_query_counts_for_nothing(edge: Edge) -> None:
    answer = await edge.http.get("/v1/users/me", params={"access_token": edge.keys.token()})

    assert answer.status_code == 401


async def test_a_bad_token_does_not_hinder_signing_in(edge: Edge) -> None:
    answer = await edge.http.post(
        "/auth/login", json={"username": "bob", "password": "wrong"}, headers=edge.bearer("garbage")
    )

    assert answer.json()["details"][0]["reason"] == "CREDENTIALS_INVALID"


async def test_grpc_web_without_a_token_says_unauthenticated_in_the_plain_header_too(edge: Edge) -> None:
    answer = await edge.http.post(
        "/reeltune.auth.v1.UserService/GetMe",
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        content=bytes(5),
    )

    assert answer.headers["grpc-status"] == "16"
    assert "x-edge-grpc-status" not in answer.headers


async def test_a_rotated_key_is_believed_soon(edge: Edge) -> None:
    former = edge.keys.kid, edge.keys.pem
    edge.keys.rotate("k2")
    try:
        answer = await edge.http.get("/v1/trainings", headers=edge.bearer(edge.keys.token()))
        assert answer.status_code == 401

        async def reaches_the_service() -> bool:
            # The services of this test know the first key only: they refuse now, in their own words.
            refused = await edge.http.get("/v1/trainings", headers=edge.bearer(edge.keys.token()))
            return "x-envoy-upstream-service-time" in refused.headers

        await assert_eventually(reaches_the_service)
    finally:
        edge.keys.kid, edge.keys.pem = former
    await assert_eventually(lambda: has_keys(edge))


async def grpc_failure(edge: Edge, metadata: tuple[tuple[str, str], ...]) -> tuple[grpc.StatusCode, str]:
    call = user_service_pb2_grpc.UserServiceStub(edge.channel).GetMe(
        user_service_pb2.GetMeRequest(), metadata=metadata, timeout=60
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    # It also compares code and message of the details with those of the call.
    status = await rpc_status.aio.from_call(call)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason


async def test_a_token_that_was_believed_is_refused_once_it_has_expired(edge: Edge) -> None:
    # The edge forgives 10 s of clock difference, so this token has about one second left.
    token = edge.keys.token(ttl=timedelta(seconds=-9))
    path = "/v1/trainings"

    async def is_refused_by_the_edge() -> bool:
        answer = await edge.http.get(path, headers=edge.bearer(token))
        return answer.status_code == 401 and "x-envoy-upstream-service-time" not in answer.headers

    assert not await is_refused_by_the_edge()
    await assert_eventually(is_refused_by_the_edge)


async def test_a_good_token_is_not_called_bad_while_the_auth_service_is_away(
    upstreams: Upstreams, tmp_path: Path
) -> None:
    """An edge that starts meanwhile has no keys: who is told to sign in again would lose a session that is good."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoints = {"auth": loopback(nobody.getsockname()[1]), "scheduler": loopback(upstreams.scheduler.port)}
        async with running_edge(tmp_path, endpoints, upstreams.keys) as edge:
            token = edge.keys.token()
            answer = await edge.http.get("/v1/trainings", headers=edge.bearer(token))
            over_web = await edge.http.post(
                "/reeltune.auth.v1.UserService/GetMe",
                headers={**edge.bearer(token), "content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
                content=b"\0\0\0\0\0",
            )
            failure = await grpc_failure(edge, (("authorization", f"Bearer {token}"),))
            without = await edge.http.get("/v1/trainings")

    assert (answer.status_code, answer.json()["code"]) == (503, 14)
    assert answer.json()["details"][0]["reason"] == "SERVICE_UNAVAILABLE"
    assert over_web.headers["grpc-status"] == "14"
    assert failure == (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE")
    assert (without.status_code, without.json()["details"][0]["reason"]) == (401, "TOKEN_MISSING")
