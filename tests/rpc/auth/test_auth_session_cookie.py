"""A browser's session: the refresh token in a cookie that no script can read."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import user_service_pb2

from meshkit.rpc.status import failure_from_rpc_error
from tests.rpc.auth.auth_mesh import PASSWORD, AuthMesh, credentials, failure_of

ASKING = (("x-reeltune-session", "cookie"),)
COOKIE = "__Host-reeltune-refresh"
GET_ME = user_service_pb2.GetMeRequest()


async def cookie_of(call: Any) -> str:
    """Returns the one Set-Cookie header of an answer."""
    await call
    (cookie,) = (value for key, value in await call.initial_metadata() if key == "set-cookie")
    return str(cookie)


def sent_back(cookie: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a browser that has this cookie and another program's."""
    return (*ASKING, ("cookie", f"theme=dark; {cookie.partition(';')[0]}"))


async def signed_in(mesh: AuthMesh) -> tuple[auth.LoginResponse, str]:
    user = (await mesh.sign_up()).user
    call = mesh.auth.Login(auth.LoginRequest(username=user.username, password=PASSWORD), metadata=ASKING)
    cookie = await cookie_of(call)
    return await call, cookie


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(mesh: AuthMesh) -> None:
    answer, cookie = await signed_in(mesh)
    value, *attributes = cookie.split("; ")

    assert answer.tokens.refresh_token == ""
    assert value.startswith(f"{COOKIE}=")
    assert len(value) > 40
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Strict"} < set(attributes)
    (age,) = (int(a.removeprefix("Max-Age=")) for a in attributes if a.startswith("Max-Age="))
    assert 29 * 86400 < age <= 30 * 86400


async def test_a_session_goes_on_by_the_cookie_alone(mesh: AuthMesh) -> None:
    _, first = await signed_in(mesh)

    call = mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=sent_back(first))
    second = await cookie_of(call)
    tokens = (await call).tokens

    assert tokens.refresh_token == ""
    assert second.partition(";")[0] != first.partition(";")[0]
    await mesh.users.GetMe(GET_ME, metadata=credentials(tokens))
    third = mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=sent_back(second))
    assert (await third).tokens.access_token


async def test_odd_cookies_of_other_programs_do_not_hide_it(mesh: AuthMesh) -> None:
    _, cookie = await signed_in(mesh)
    for others in ('prefs={"a":1}', "a,b=[1]; odd", 'open="quote', "=; ;"):
        for place in ("{others}; {own}", "{own}; {others}", "{own};{others}"):
            sent = place.format(others=others, own=cookie.partition(";")[0])
            metadata = (*ASKING, ("cookie", sent))
            cookie = await cookie_of(mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=metadata))
            assert cookie.startswith(f"{COOKIE}="), sent


async def test_signing_up_gives_the_cookie_and_logging_out_takes_it_back(mesh: AuthMesh) -> None:
    request = auth.SignUpRequest(username="babbage", email="babbage@example.org", password=PASSWORD)
    call = mesh.auth.SignUp(request, metadata=ASKING)
    cookie = await cookie_of(call)
    tokens = (await call).tokens

    forgotten = await cookie_of(mesh.auth.Logout(auth.LogoutRequest(), metadata=(*credentials(tokens), *ASKING)))

    assert "Max-Age=0" in forgotten.split("; ")
    refused = mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=sent_back(cookie))
    assert (await failure_of(refused)).reason == "REFRESH_TOKEN_INVALID"


async def test_who_does_not_ask_gets_no_cookie(mesh: AuthMesh) -> None:
    user = (await mesh.sign_up()).user
    call = mesh.auth.Login(auth.LoginRequest(username=user.username, password=PASSWORD))

    assert (await call).tokens.refresh_token
    assert "set-cookie" not in {key for key, _ in await call.initial_metadata()}


async def test_a_cookie_without_the_header_is_not_looked_at(mesh: AuthMesh) -> None:
    _, cookie = await signed_in(mesh)
    without = tuple(pair for pair in sent_back(cookie) if pair[0] == "cookie")

    failure = await failure_of(mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=without))

    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert failure.field_violations[0].field == "refresh_token"


@pytest.mark.parametrize("cookie", ["", "theme=dark", f"{COOKIE}=", f"{COOKIE}=made-up", 'a="b; ' * 40])
async def test_a_missing_or_made_up_cookie_means_log_in_again(mesh: AuthMesh, cookie: str) -> None:
    metadata = (*ASKING, ("cookie", cookie)) if cookie else ASKING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.auth.RefreshSession(auth.RefreshSessionRequest(), metadata=metadata)

    assert failure_from_rpc_error(refused.value).reason == "REFRESH_TOKEN_INVALID"
