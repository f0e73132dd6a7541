from __future__ import annotations

from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import session_pb2, user_pb2
from reeltune.auth.v1 import user_service_pb2 as pb
from reeltune.auth.v1.revocation_service_pb2 import ListRevocationsRequest
from reeltune.auth.v1.revocation_service_pb2_grpc import RevocationServiceStub

from meshkit.auth.revocations import session_digest
from meshkit.ids import new_id
from tests.rpc.auth.auth_mesh import AuthMesh, credentials, failure_of


def update(user_id: str, *paths: str, **fields: Any) -> pb.UpdateUserRequest:
    return pb.UpdateUserRequest(user=user_pb2.User(id=user_id, **fields), update_mask=FieldMask(paths=paths))


async def test_only_admins_manage_users(mesh: AuthMesh) -> None:
    user = await mesh.sign_up()
    for call in (
        mesh.users.ListUsers(pb.ListUsersRequest(), metadata=credentials(user.tokens)),
        mesh.users.UpdateUser(update(user.user.id, "disabled", disabled=True), metadata=credentials(user.tokens)),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert (await failure_of(mesh.users.ListUsers(pb.ListUsersRequest()))).reason == "TOKEN_MISSING"


async def test_a_demoted_admin_is_refused_although_the_token_still_says_admin(mesh: AuthMesh) -> None:
    _, root = await mesh.sign_up_admin()
    deputy, deputy_metadata = await mesh.sign_up_admin()
    await mesh.users.UpdateUser(update(deputy.user.id, "roles", roles=[user_pb2.ROLE_USER]), metadata=root)
    failure = await failure_of(mesh.users.ListUsers(pb.ListUsersRequest(), metadata=deputy_metadata))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")


async def test_lists_pages_newest_first(mesh: AuthMesh) -> None:
    made = [(await mesh.sign_up()).user.id for _ in range(6)]
    admin, metadata = await mesh.sign_up_admin()
    seen: list[str] = []
    request = pb.ListUsersRequest(page_size=3)
    while True:
        page = await mesh.users.ListUsers(request, metadata=metadata)
        assert len(page.users) <= 3
        seen += [user.id for user in page.users]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [admin.user.id, *reversed(made)]


async def test_filters_and_their_mistakes(mesh: AuthMesh) -> None:
    await mesh.sign_up("ada")
    await mesh.sign_up("adam")
    _, metadata = await mesh.sign_up_admin()
    found = await mesh.users.ListUsers(pb.ListUsersRequest(filter='username : "ada"'), metadata=metadata)
    assert {user.username for user in found.users} == {"ada", "adam"}
    failure = await failure_of(mesh.users.ListUsers(pb.ListUsersRequest(filter="password = x"), metadata=metadata))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert failure.metadata["position"] == "0"
    negative = await failure_of(mesh.users.ListUsers(pb.ListUsersRequest(page_size=-1), metadata=metadata))
    assert negative.reason == "FIELD_INVALID"


async def test_page_tokens_belong_to_one_caller_and_filter(mesh: AuthMesh) -> None:
    for _ in range(3):
        await mesh.sign_up()
    _, metadata = await mesh.sign_up_admin()
    _, other = await mesh.sign_up_admin()
    token = (await mesh.users.ListUsers(pb.ListUsersRequest(page_size=1), metadata=metadata)).next_page_token
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    for request, caller in (
        (pb.ListUsersRequest(page_token=token), other),
        (pb.ListUsersRequest(page_token=token, filter="disabled = true"), metadata),
        (pb.ListUsersRequest(page_token=flipped), metadata),
        (pb.ListUsersRequest(page_token="made up"), metadata),
    ):
        failure = await failure_of(mesh.users.ListUsers(request, metadata=caller))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_barring_a_user_ends_their_sessions_at_once(mesh: AuthMesh) -> None:
    _, metadata = await mesh.sign_up_admin()
    user = await mesh.sign_up("eve")
    answer = await mesh.users.UpdateUser(
        update(user.user.id, "disabled", disabled=True, etag=user.user.etag), metadata=metadata
    )
    assert answer.user.disabled
    assert answer.user.etag != user.user.etag
    me = mesh.users.GetMe(pb.GetMeRequest(), metadata=credentials(user.tokens))
    assert (await failure_of(me)).reason == "TOKEN_INVALID"
    assert (await failure_of(mesh.refresh(user.tokens.refresh_token))).reason == "REFRESH_TOKEN_INVALID"
    assert (await failure_of(mesh.login("eve"))).reason == "USER_DISABLED"
    await mesh.users.UpdateUser(update(user.user.id, "disabled", disabled=False), metadata=metadata)
    await mesh.login("eve")


async def test_granting_admin_works_from_the_next_token_on(mesh: AuthMesh) -> None:
    _, metadata = await mesh.sign_up_admin()
    user = await mesh.sign_up("eve")
    both = [user_pb2.ROLE_USER, user_pb2.ROLE_ADMIN]
    answer = await mesh.users.UpdateUser(update(user.user.id, "roles", roles=both), metadata=metadata)
    assert list(answer.user.roles) == both
    tokens = (await mesh.refresh(user.tokens.refresh_token)).tokens
    await mesh.users.ListUsers(pb.ListUsersRequest(), metadata=credentials(tokens))


async def test_update_errors(mesh: AuthMesh) -> None:
    admin, metadata = await mesh.sign_up_admin()
    user = await mesh.sign_up()
    cases = [
        (update(new_id("usr"), "disabled"), grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
        (update("", "disabled"), grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
        (update(user.user.id, "disabled", etag="stale"), grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
        (
            update(admin.user.id, "disabled", disabled=True),
            grpc.StatusCode.FAILED_PRECONDITION,
            "LAST_ADMIN",
        ),
        (
            update(admin.user.id, "roles", roles=[user_pb2.ROLE_USER]),
            grpc.StatusCode.FAILED_PRECONDITION,
            "LAST_ADMIN",
        ),
        (update(user.user.id, "username", username="x"), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (update(user.user.id), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (update(user.user.id, "roles"), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (pb.UpdateUserRequest(), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
    ]
    for request, code, reason in cases:
        failure = await failure_of(mesh.users.UpdateUser(request, metadata=metadata))
        assert (failure.code, failure.reason) == (code, reason), request


@pytest.mark.parametrize("rpc", ["ListUsers", "UpdateUser", "GetMe"])
async def test_a_caller_whose_session_ended_is_signed_out_everywhere(mesh: AuthMesh, rpc: str) -> None:
    admin, metadata = await mesh.sign_up_admin()
    await mesh.sign_up_admin()
    await mesh.pool.execute("UPDATE sessions SET end_time = now(), end_reason = 'logout'")
    requests = {
        "ListUsers": pb.ListUsersRequest(),
        "UpdateUser": update(admin.user.id, "disabled", disabled=True),
        "GetMe": pb.GetMeRequest(),
    }
    failure = await failure_of(getattr(mesh.users, rpc)(requests[rpc], metadata=metadata))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_services_are_told_of_sessions_that_ended_by_log_out_and_by_barring(mesh: AuthMesh) -> None:
    _, admin = await mesh.sign_up_admin()
    leaves, barred, stays = [await mesh.sign_up() for _ in range(3)]
    stub = RevocationServiceStub(mesh.served.channel)

    await mesh.auth.Logout(auth.LogoutRequest(), metadata=credentials(leaves.tokens))
    await mesh.users.UpdateUser(update(barred.user.id, "disabled", disabled=True), metadata=admin)

    told = await stub.ListRevocations(ListRevocationsRequest())
    digests = [session_digest(session_of(user.tokens)) in told.session_digests for user in (leaves, barred, stays)]
    assert digests == [True, True, False]
    assert told.window.ToSeconds() > mesh.settings.access_token_seconds
    await mesh.pool.execute("UPDATE sessions SET end_time = end_time - interval '1 hour' WHERE end_time IS NOT NULL")
    assert not (await stub.ListRevocations(ListRevocationsRequest())).session_digests, "their tokens are over by now"


def session_of(tokens: session_pb2.SessionTokens) -> str:
    claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
    return str(claims["sid"])
