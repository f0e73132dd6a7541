"""Sign up, log in, who am I: through gRPC, curl and the browser's client, on the bare and the versioned paths."""

from __future__ import annotations

import asyncio
import json
import secrets

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, user_service_pb2, user_service_pb2_grpc

from meshkit.rpc.client import bearer
from tests.e2e.running_mesh import PASSWORD, RunningMesh

AUTH = "reeltune/auth/v1/auth_service_pb"
USERS = "reeltune/auth/v1/user_service_pb"


def new_name() -> str:
    return f"ada-{secrets.token_hex(4)}"


async def curl(mesh: RunningMesh, path: str, *arguments: str) -> tuple[int, dict[str, object]]:
    """Runs curl as the README tells people to; returns the HTTP status and the JSON."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--http1.1", "--max-time", "20", "--cacert", str(mesh.ca), "-w", "\n%{http_code}"),
        *arguments,
        f"{mesh.url}{path}",
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    body, _, status = said.decode().rpartition("\n")
    return int(status), json.loads(body)


async def test_over_grpc(stack: RunningMesh) -> None:
    auth = auth_service_pb2_grpc.AuthServiceStub(stack.channel)
    users = user_service_pb2_grpc.UserServiceStub(stack.channel)
    name = new_name()

    signed_up = await auth.SignUp(
        auth_service_pb2.SignUpRequest(username=name, email=f"{name}@example.com", password=PASSWORD), timeout=60
    )
    logged_in = await auth.Login(auth_service_pb2.LoginRequest(username=name, password=PASSWORD), timeout=60)
    me = await users.GetMe(user_service_pb2.GetMeRequest(), metadata=bearer(logged_in.tokens.access_token), timeout=60)

    assert me.user.id == signed_up.user.id
    assert me.user.username == name


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_over_json_with_curl(stack: RunningMesh, prefix: str) -> None:
    name = new_name()
    credentials = {"username": name, "password": PASSWORD}

    status, signed_up = await curl(
        stack, f"{prefix}/auth/signup", "-d", json.dumps({**credentials, "email": f"{name}@example.com"})
    )
    assert status == 200, signed_up
    status, logged_in = await curl(stack, f"{prefix}/auth/login", "-d", json.dumps(credentials))
    assert status == 200, logged_in
    token = logged_in["tokens"]["accessToken"]  # type: ignore[index]
    status, me = await curl(stack, f"{prefix}/users/me", "-H", f"authorization: Bearer {token}")

    assert (status, me["username"], me["email"]) == (200, name, f"{name}@example.com")


async def test_over_grpc_web(stack: RunningMesh) -> None:
    name = new_name()
    credentials = {"username": name, "password": PASSWORD}

    signed_up = await stack.web.call(AUTH, "AuthService/SignUp", {**credentials, "email": f"{name}@example.com"})
    logged_in = await stack.web.call(AUTH, "AuthService/Login", credentials)
    me = await stack.web.call(USERS, "UserService/GetMe", token=logged_in.messages[0]["tokens"]["accessToken"])

    assert signed_up.code == 0
    assert me.messages[0]["user"]["username"] == name


async def test_a_refused_sign_up_says_which_field_over_every_door(stack: RunningMesh) -> None:
    bad = {"username": "x", "email": "no address", "password": "short"}

    status, by_curl = await curl(stack, "/auth/signup", "-d", json.dumps(bad))
    by_web = await stack.web.call(AUTH, "AuthService/SignUp", bad)
    call = auth_service_pb2_grpc.AuthServiceStub(stack.channel).SignUp(
        auth_service_pb2.SignUpRequest(**bad), timeout=60
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = (await rpc_status.aio.from_call(call)).details
    by_grpc = error_details_pb2.BadRequest()
    assert any(detail.Unpack(by_grpc) for detail in details)

    fields = {"username", "email", "password"}
    assert (status, by_curl["code"]) == (400, 3)
    assert named_fields(by_curl["details"]) == fields
    assert (by_web.code, named_fields(by_web.details)) == (3, fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in by_grpc.field_violations} == fields


async def test_a_wrong_password_and_an_unknown_user_are_told_apart_by_nobody(stack: RunningMesh) -> None:
    user = await stack.sign_up()

    wrong = await stack.http.post("/auth/login", json={"username": user.username, "password": "not the pass phrase"})
    unknown = await stack.http.post("/auth/login", json={"username": new_name(), "password": "not the pass phrase"})

    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()


def named_fields(details: object) -> set[str]:
    assert isinstance(details, list)
    bad_request = next(detail for detail in details if detail["@type"].endswith("google.rpc.BadRequest"))
    return {violation["field"] for violation in bad_request["fieldViolations"]}
