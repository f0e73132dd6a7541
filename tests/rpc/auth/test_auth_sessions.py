from __future__ import annotations

import asyncio

import grpc
import pytest
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import user_service_pb2

from tests.rpc.auth.auth_mesh import AuthMesh, Start, credentials, failure_of

GET_ME = user_service_pb2.GetMeRequest()


async def test_a_refresh_gives_the_next_pair(mesh: AuthMesh) -> None:
    first = (await mesh.sign_up()).tokens
    second = (await mesh.refresh(first.refresh_token)).tokens
    assert second.refresh_token != first.refresh_token
    assert second.access_token != first.access_token
    await mesh.users.GetMe(GET_ME, metadata=credentials(second))
    third = (await mesh.refresh(second.refresh_token)).tokens
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3


async def test_a_lost_response_logs_nobody_out(mesh: AuthMesh) -> None:
    first = (await mesh.sign_up()).tokens
    lost = (await mesh.refresh(first.refresh_token)).tokens
    repeated = (await mesh.refresh(first.refresh_token)).tokens
    assert repeated.refresh_token == lost.refresh_token
    await mesh.users.GetMe(GET_ME, metadata=credentials(repeated))
    await mesh.refresh(repeated.refresh_token)


async def test_re_use_ends_the_session_and_no_other(mesh: AuthMesh) -> None:
    other = await mesh.sign_up("ada")
    stolen = (await mesh.login("ada")).tokens
    newest = (await mesh.refresh((await mesh.refresh(stolen.refresh_token)).tokens.refresh_token)).tokens
    failure = await failure_of(mesh.refresh(stolen.refresh_token))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID")
    assert (await failure_of(mesh.refresh(newest.refresh_token))).reason == "REFRESH_TOKEN_INVALID"
    ended = await failure_of(mesh.users.GetMe(GET_ME, metadata=credentials(newest)))
    assert (ended.code, ended.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    await mesh.refresh(other.tokens.refresh_token)


async def test_the_repeat_is_refused_after_the_window(start: Start) -> None:
    mesh = await start(refresh_replay_seconds=0)
    first = (await mesh.sign_up()).tokens
    newest = (await mesh.refresh(first.refresh_token)).tokens
    assert (await failure_of(mesh.refresh(first.refresh_token))).reason == "REFRESH_TOKEN_INVALID"
    assert (await failure_of(mesh.refresh(newest.refresh_token))).reason == "REFRESH_TOKEN_INVALID"


async def test_twenty_racing_refreshes_never_fork_the_session(mesh: AuthMesh) -> None:
    first = (await mesh.sign_up()).tokens
    results = await asyncio.gather(*(mesh.refresh(first.refresh_token) for _ in range(20)), return_exceptions=True)
    given = [result.tokens.refresh_token for result in results if isinstance(result, auth.RefreshSessionResponse)]
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(given) == 2
    assert len(set(given)) == 1
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
    assert (await failure_of(mesh.refresh(given[0]))).reason == "REFRESH_TOKEN_INVALID"


@pytest.mark.parametrize("token", ["made-up", "x" * 256, "eyJ.a.b", "né"])
async def test_made_up_refresh_tokens_are_refused(mesh: AuthMesh, token: str) -> None:
    failure = await failure_of(mesh.refresh(token))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID")


@pytest.mark.parametrize("token", ["", "x" * 257])
async def test_impossible_refresh_tokens_are_bad_fields(mesh: AuthMesh, token: str) -> None:
    failure = await failure_of(mesh.refresh(token))
    assert failure.reason == "FIELD_INVALID"
    assert failure.field_violations[0].field == "refresh_token"


async def test_an_access_token_is_no_refresh_token_and_the_other_way_round(mesh: AuthMesh) -> None:
    tokens = (await mesh.sign_up()).tokens
    assert (await failure_of(mesh.refresh(tokens.access_token[:256]))).reason == "REFRESH_TOKEN_INVALID"
    metadata = (("authorization", f"Bearer {tokens.refresh_token}"),)
    assert (await failure_of(mesh.users.GetMe(GET_ME, metadata=metadata))).reason == "TOKEN_INVALID"


async def test_logging_out_ends_the_session_and_can_be_repeated(mesh: AuthMesh) -> None:
    await mesh.sign_up("ada")
    left, kept = (await mesh.login("ada")).tokens, (await mesh.login("ada")).tokens
    for _ in range(2):
        await mesh.auth.Logout(auth.LogoutRequest(), metadata=credentials(left))
    assert (await failure_of(mesh.refresh(left.refresh_token))).reason == "REFRESH_TOKEN_INVALID"
    assert (await failure_of(mesh.users.GetMe(GET_ME, metadata=credentials(left)))).reason == "TOKEN_INVALID"
    await mesh.users.GetMe(GET_ME, metadata=credentials(kept))
    await mesh.refresh(kept.refresh_token)


async def test_logging_out_needs_a_token(mesh: AuthMesh) -> None:
    failure = await failure_of(mesh.auth.Logout(auth.LogoutRequest()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


async def test_an_old_access_token_does_not_hinder_signing_in(mesh: AuthMesh) -> None:
    await mesh.sign_up("ada")
    tokens = (await mesh.login("ada", metadata=(("authorization", "Bearer stale"),))).tokens
    assert (await mesh.users.GetMe(GET_ME, metadata=credentials(tokens))).user.username == "ada"


async def test_sessions_live_on_after_a_restart_with_the_same_keys(start: Start) -> None:
    before = await start()
    tokens = (await before.sign_up()).tokens
    after = await start()
    await after.users.GetMe(GET_ME, metadata=credentials(tokens))
    lost = (await after.refresh(tokens.refresh_token)).tokens
    assert (await before.refresh(tokens.refresh_token)).tokens.refresh_token == lost.refresh_token
