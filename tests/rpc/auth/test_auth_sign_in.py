from __future__ import annotations

import asyncio
import statistics
import time

import grpc
import jwt
import pytest
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import user_pb2, user_service_pb2

from meshkit.ids import is_id
from tests.rpc.auth.auth_mesh import PASSWORD, AuthMesh, Start, credentials, failure_of


async def test_signing_up_gives_a_user_and_a_session(mesh: AuthMesh) -> None:
    answer = await mesh.sign_up("Ada")
    assert is_id(answer.user.id, "usr")
    assert (answer.user.username, answer.user.email) == ("Ada", "Ada@example.org")
    assert list(answer.user.roles) == [user_pb2.ROLE_USER]
    assert answer.user.create_time == answer.user.update_time
    me = await mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=credentials(answer.tokens))
    assert me.user == answer.user


async def test_the_access_token_is_what_the_contract_says(mesh: AuthMesh) -> None:
    answer = await mesh.sign_up()
    jwks = await mesh.auth.GetJwks(auth.GetJwksRequest())
    key = jwt.PyJWK({field.name: value for field, value in jwks.keys[0].ListFields()})
    header = jwt.get_unverified_header(answer.tokens.access_token)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": jwks.keys[0].kid}
    claims = jwt.decode(
        answer.tokens.access_token, key, algorithms=["ES256"], audience="reeltune", issuer="reeltune-auth"
    )
    assert set(claims) == {"iss", "aud", "sub", "iat", "exp", "jti", "roles", "sid"}
    assert claims["sub"] == answer.user.id
    assert claims["roles"] == ["user"]
    assert is_id(claims["sid"], "ses")
    assert claims["exp"] - claims["iat"] == 600
    assert abs(answer.tokens.access_expire_time.seconds - claims["exp"]) <= 1


async def test_names_are_taken_without_regard_to_case(mesh: AuthMesh) -> None:
    await mesh.sign_up("Ada")
    taken = await failure_of(mesh.sign_up("aDa"))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN")
    request = auth.SignUpRequest(username="other", email="ADA@EXAMPLE.ORG", password=PASSWORD)
    taken = await failure_of(mesh.auth.SignUp(request))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": "a"}, "username"),
        ({"username": "with space"}, "username"),
        ({"username": ""}, "username"),
        ({"email": "not-an-address"}, "email"),
        ({"email": "a" * 250 + "@example.org"}, "email"),
        ({"password": "too short"}, "password"),
        ({"password": "13 characters"}, "password"),
        ({"password": "x1!y2?" * 50}, "password"),
        ({"password": "Password12345678"}, "password"),
        ({"password": "my name is ada.l 77"}, "password"),
    ],
)
async def test_a_bad_field_is_named(mesh: AuthMesh, changes: dict[str, str], field: str) -> None:
    request = {"username": "ada.l", "email": "ada@example.org", "password": PASSWORD, **changes}
    failure = await failure_of(mesh.auth.SignUp(auth.SignUpRequest(**request)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert [violation.field for violation in failure.field_violations] == [field]
    assert await mesh.pool.fetchval("SELECT count(*) FROM users") == 0


@pytest.mark.parametrize("name", ["ada", "ADA", "ada@example.org", "Ada@Example.ORG"])
async def test_logging_in_by_username_or_email(mesh: AuthMesh, name: str) -> None:
    signed_up = await mesh.sign_up("ada")
    answer = await mesh.login(name)
    assert answer.user == signed_up.user
    assert answer.tokens.refresh_token != signed_up.tokens.refresh_token
    me = await mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=credentials(answer.tokens))
    assert me.user.id == signed_up.user.id


async def test_unknown_user_and_wrong_password_answer_the_same(mesh: AuthMesh) -> None:
    await mesh.sign_up("ada")
    answers = []
    for name in ("ada", "nobody", "nobody@example.org", "ada\0", "' OR 1=1 --"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.login(name, "not the password at all")
        status = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
        answers.append((caught.value.code(), caught.value.details(), status))
    assert set(answers) == {answers[0]}
    assert (await failure_of(mesh.login("nobody"))).reason == "CREDENTIALS_INVALID"
    assert answers[0][0] is grpc.StatusCode.UNAUTHENTICATED


async def test_unknown_user_and_wrong_password_take_the_same_time(start: Start) -> None:
    mesh = await start(argon2_memory_kib=64 * 1024, argon2_time_cost=3, login_free_failures=1000)
    await mesh.sign_up("ada")

    async def seconds(name: str) -> float:
        # The processor's time, of all threads: what others do on the machine does not count.
        begin = time.process_time()
        await failure_of(mesh.login(name, "not the password at all"))
        return time.process_time() - begin

    known, unknown = [], []
    for n in range(7):
        known.append(await seconds("ada"))
        unknown.append(await seconds(f"nobody{n}"))
    assert 0.6 < statistics.median(known) / statistics.median(unknown) < 1.7


async def test_failures_slow_an_account_down_and_leave_live_sessions_alone(start: Start) -> None:
    mesh = await start(login_free_failures=2, login_first_delay_seconds=40)
    owner = await mesh.sign_up("ada")
    for _ in range(3):
        assert (await failure_of(mesh.login("ada", "not the password at all"))).reason == "CREDENTIALS_INVALID"
    failure = await failure_of(mesh.login("ada"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOGIN_THROTTLED")
    assert failure.retry_after is not None
    assert 30 < failure.retry_after.total_seconds() <= 40
    # Unknown names are slowed down alike, so that the delay tells nothing.
    for _ in range(3):
        await failure_of(mesh.login("nobody", "not the password at all"))
    assert (await failure_of(mesh.login("nobody"))).reason == "LOGIN_THROTTLED"
    tokens = (await mesh.refresh(owner.tokens.refresh_token)).tokens
    await mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=credentials(tokens))


async def test_a_right_password_after_a_few_wrong_ones_clears_the_account(start: Start) -> None:
    mesh = await start(login_free_failures=3, login_first_delay_seconds=60)
    await mesh.sign_up("ada")
    for _ in range(3):
        for _ in range(3):
            await failure_of(mesh.login("ada", "not the password at all"))
        assert (await mesh.login("ada")).tokens.access_token


async def test_an_address_that_fails_everywhere_is_slowed_down(start: Start) -> None:
    mesh = await start(address_failures=4, address_failures_per_second=0.01)
    await mesh.sign_up("ada")
    for _ in range(6):
        await mesh.login("ada")
    guesser = (("x-forwarded-for", "10.0.0.1, 203.0.113.9"),)
    for n in range(4):
        assert (await failure_of(mesh.login(f"nobody{n}", metadata=guesser))).reason == "CREDENTIALS_INVALID"
    failure = await failure_of(mesh.login("nobody4", metadata=guesser))
    assert failure.reason == "LOGIN_THROTTLED"
    assert (await failure_of(mesh.login("ada", metadata=guesser))).reason == "LOGIN_THROTTLED"
    await mesh.login("ada", metadata=(("x-forwarded-for", "203.0.113.9, 203.0.113.10"),))


async def test_a_barred_user_is_told_only_with_the_right_password(mesh: AuthMesh) -> None:
    user = await mesh.sign_up("ada")
    await mesh.pool.execute("UPDATE users SET disabled = true WHERE id = $1", user.user.id)
    assert (await failure_of(mesh.login("ada", "not the password at all"))).reason == "CREDENTIALS_INVALID"
    failure = await failure_of(mesh.login("ada"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "USER_DISABLED")


async def test_old_hash_parameters_are_upgraded_at_log_in(start: Start) -> None:
    old = await start()
    await old.sign_up("ada")
    new = await start(argon2_memory_kib=20 * 1024)
    stored = "SELECT password_hash FROM users"
    assert "m=19456," in await new.pool.fetchval(stored)
    await failure_of(new.login("ada", "not the password at all"))
    assert "m=19456," in await new.pool.fetchval(stored)
    await new.login("ada")
    assert "m=20480," in await new.pool.fetchval(stored)
    await new.login("ada")


async def test_too_many_at_once_are_told_to_come_back(start: Start) -> None:
    mesh = await start(argon2_memory_kib=64 * 1024, password_threads=1, password_max_waiting=1)
    await mesh.sign_up("ada")
    results = await asyncio.gather(*(mesh.login("ada") for _ in range(12)), return_exceptions=True)
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert len(errors) < 12
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    failure = await failure_of(_raised(errors[0]))
    assert failure.reason == "SIGN_IN_BUSY"
    assert failure.retry_after is not None
    await mesh.login("ada")


async def _raised(error: grpc.aio.AioRpcError) -> None:
    raise error


async def test_fifty_parallel_log_ins_succeed_and_the_service_stays_responsive(start: Start) -> None:
    mesh = await start(argon2_memory_kib=64 * 1024)
    for n in range(5):
        await mesh.sign_up(f"user{n}")
    logins = asyncio.gather(*(mesh.login(f"user{n % 5}", timeout=240) for n in range(50)))
    began = time.perf_counter()
    waits = []
    while not logins.done():
        begin = time.perf_counter()
        await mesh.auth.GetJwks(auth.GetJwksRequest())
        waits.append(time.perf_counter() - begin)
        await asyncio.sleep(0.02)
    assert len(await logins) == 50
    # Did hashes hold the loop, every other call would wait for one of fifty, whatever the machine makes of it.
    assert statistics.median(waits) < (time.perf_counter() - began) / 100


async def test_no_password_and_no_token_reaches_the_log(mesh: AuthMesh, capfd: pytest.CaptureFixture[str]) -> None:
    answer = await mesh.sign_up("ada")
    await mesh.login("ada")
    await failure_of(mesh.login("ada", "a wrong password 123"))
    await mesh.refresh(answer.tokens.refresh_token)
    logged = "".join(capfd.readouterr())
    assert "audit.sign_up" in logged
    assert "audit.log_in" in logged
    secrets = (PASSWORD, "a wrong password 123", answer.tokens.access_token, answer.tokens.refresh_token)
    assert not any(secret in logged for secret in secrets)
