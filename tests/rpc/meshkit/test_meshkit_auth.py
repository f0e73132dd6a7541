"""Who may call: tokens of every doubtful kind, and callers of every kind, through a real channel."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshkit.auth import tokens as tokens_module
from meshkit.auth.keys import JwksKeys, StaticKeys
from meshkit.auth.principal import Caller
from meshkit.auth.tokens import (
    LEEWAY,
    TokenRejected,
    TokenVerifier,
    TrustedIssuer,
    generate_private_key,
    public_jwk,
    public_pem,
)
from meshkit.rpc.access import AccessUndeclared, access_policy
from meshkit.rpc.client import bearer
from meshkit.rpc.request_context import remaining_seconds, set_deadline
from meshkit.testing import TokenMint
from meshkit.testing.plugin import Serve
from tests.rpc.meshkit.echo_service import SERVICE, Echo, EchoServicer, failure_of


def _claims(mint: TokenMint, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": mint.issuer, "aud": mint.audience, "sub": "usr_1", "jti": "1", "iat": now, "exp": now + 60}
    merged = {**claims, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _signed(mint: TokenMint, *, key: Any = None, algorithm: str = "ES256", header: Any = None, **changes: Any) -> str:
    headers = {"typ": mint.typ(Caller.USER), "kid": mint.kid, **(header or {})}
    return jwt.encode(
        _claims(mint, **changes), mint.private_key_pem if key is None else key, algorithm=algorithm, headers=headers
    )


def _unsigned(mint: TokenMint, algorithm: str) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': algorithm, 'typ': mint.typ(Caller.USER), 'kid': mint.kid})}.{part(_claims(mint))}."


def _rsa_key() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _hmac_with_public_key(mint: TokenMint) -> str:
    # The classic confusion: the public key used as an HMAC secret. PyJWT refuses to make one, so it is made by hand.
    import hashlib
    import hmac

    signed_part = _unsigned(mint, "HS256").rstrip(".")
    mac = hmac.digest(public_pem(mint.private_key_pem), signed_part.encode(), hashlib.sha256)
    return f"{signed_part}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _tampered(mint: TokenMint) -> str:
    header, _, signature = _signed(mint).split(".")
    payload = base64.urlsafe_b64encode(json.dumps(_claims(mint, sub="usr_2")).encode()).rstrip(b"=").decode()
    return f"{header}.{payload}.{signature}"


FOREIGN_KEY = generate_private_key()
CORPUS: dict[str, Callable[[TokenMint], str]] = {
    "alg none": lambda mint: _unsigned(mint, "none"),
    "alg None in capitals": lambda mint: _unsigned(mint, "NONE"),
    "alg ES256 without signature": lambda mint: _unsigned(mint, "ES256") + "AA",
    "HMAC with the public key": _hmac_with_public_key,
    "HMAC with an own secret": lambda mint: _signed(mint, key="x" * 32, algorithm="HS256"),
    "RS256": lambda mint: _signed(mint, key=_rsa_key(), algorithm="RS256"),
    "foreign key": lambda mint: _signed(mint, key=FOREIGN_KEY),
    "tampered payload": _tampered,
    "cut signature": lambda mint: _signed(mint)[:-4],
    "expired": lambda mint: _signed(mint, exp=int(time.time()) - 31),
    "not yet valid": lambda mint: _signed(mint, nbf=int(time.time()) + 300),
    "wrong audience": lambda mint: _signed(mint, aud="other"),
    "list of audiences": lambda mint: _signed(mint, aud=[mint.audience, "other"]),
    "wrong issuer": lambda mint: _signed(mint, iss="other"),
    "no audience": lambda mint: _signed(mint, aud=None),
    "no expiry": lambda mint: _signed(mint, exp=None),
    "no subject": lambda mint: _signed(mint, sub=None),
    "empty subject": lambda mint: _signed(mint, sub=""),
    "no jti": lambda mint: _signed(mint, jti=None),
    "no issuer": lambda mint: _signed(mint, iss=None),
    "roles as text": lambda mint: _signed(mint, roles="admin"),
    "wrong typ": lambda mint: _signed(mint, header={"typ": "JWT"}),
    "typ in capitals": lambda mint: _signed(mint, header={"typ": mint.typ(Caller.USER).upper()}),
    "no typ": lambda mint: _signed(mint, header={"typ": None}),
    "no kid": lambda mint: _signed(mint, header={"kid": ""}),
    "unknown kid": lambda mint: _signed(mint, header={"kid": "other"}),
    "kid as a path": lambda mint: _signed(mint, header={"kid": "../../etc/passwd"}),
    "own key in jwk header": lambda mint: _signed(mint, key=FOREIGN_KEY, header={"jwk": public_jwk(FOREIGN_KEY, "x")}),
    "jku header": lambda mint: _signed(mint, header={"jku": "https://example.com/keys"}),
    "x5u header": lambda mint: _signed(mint, header={"x5u": "https://example.com/cert"}),
    "crit header": lambda mint: _signed(mint, header={"crit": ["exp"]}),
    "four parts": lambda mint: _signed(mint) + ".x",
    "not a token": lambda mint: "hello",
    "huge": lambda mint: _signed(mint, note="x" * 9000),
}


@pytest.fixture
async def stub(serve: Serve, echo: Echo, servicer: EchoServicer) -> Any:
    served = await serve([echo.registration(servicer)])
    return echo.stub(served.channel)


@pytest.mark.parametrize("name", CORPUS)
async def test_a_doubtful_token_is_refused(stub: Any, echo: Echo, token_mint: TokenMint, name: str) -> None:
    token = CORPUS[name](token_mint)
    request = echo.pb.UnaryRequest(word=echo.word("x"))
    failure = await failure_of(stub.Unary(request, metadata=bearer(token)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    # The same token is as good as none where nobody has to sign in.
    assert (await stub.Open(echo.pb.OpenRequest(), metadata=bearer(token))).caller == "ANYONE"


async def test_the_corpus_differs_from_a_good_token_by_its_fault_only(
    stub: Any, echo: Echo, token_mint: TokenMint
) -> None:
    request = echo.pb.UnaryRequest(word=echo.word("x"))
    assert (await stub.Unary(request, metadata=bearer(_signed(token_mint)))).caller == "usr_1"
    within_leeway = _signed(token_mint, exp=int(time.time()) - 3)
    assert (await stub.Unary(request, metadata=bearer(within_leeway))).caller == "usr_1"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", ""),), "TOKEN_INVALID"),
        ((("authorization", "Bearer "),), "TOKEN_INVALID"),
        ((("authorization", "Basic dXNlcjpwYXNz"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), "TOKEN_INVALID"),
    ],
)
async def test_a_missing_or_odd_header_is_refused(stub: Any, echo: Echo, metadata: Any, reason: str) -> None:
    refused = asyncio.Event()
    for call in (
        stub.Unary(echo.pb.UnaryRequest(word=echo.word("x")), metadata=metadata),
        _first(stub.Down(echo.pb.DownRequest(count=1), metadata=metadata)),
        stub.Up(_silence_until(refused), metadata=metadata),
        _first(stub.Both(_silence_until(refused), metadata=metadata)),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    refused.set()


async def _silence_until(refused: asyncio.Event) -> AsyncIterator[Any]:
    # A refusal must not wait for a first message. (And grpc.aio's client, when a refusal crosses a message that it is
    # sending, reports its own failed write instead.)
    await refused.wait()
    return
    yield


async def _first(call: Any) -> Any:
    return [message async for message in call]


async def test_each_rpc_admits_the_callers_of_its_contract(stub: Any, echo: Echo, token_mint: TokenMint) -> None:
    callers = {
        "user": token_mint.user(),
        "admin": token_mint.admin(),
        "worker": token_mint.machine(Caller.WORKER, "wrk_1"),
        "attempt": token_mint.machine(Caller.ATTEMPT, "job_1"),
        "service": token_mint.machine(Caller.SERVICE, "catalog"),
        # The role counts for users only: a machine cannot claim it.
        "false admin": token_mint.machine(Caller.WORKER, "wrk_1", roles=["admin"]),
    }
    rpcs = {
        "Unary": (lambda md: stub.Unary(echo.pb.UnaryRequest(word=echo.word("x")), metadata=md), {"user", "admin"}),
        "Down": (lambda md: _first(stub.Down(echo.pb.DownRequest(count=1), metadata=md)), {"user", "admin"}),
        "AdminOnly": (lambda md: stub.AdminOnly(echo.pb.AdminOnlyRequest(), metadata=md), {"admin"}),
        "Machines": (lambda md: stub.Machines(echo.pb.MachinesRequest(), metadata=md), {"attempt", "service"}),
        "Open": (lambda md: stub.Open(echo.pb.OpenRequest(), metadata=md), set(callers)),
    }
    for rpc, (call, admitted) in rpcs.items():
        for name, metadata in callers.items():
            if name in admitted:
                await call(metadata)
                continue
            failure = await failure_of(call(metadata))
            assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"), (rpc, name)
            assert failure.metadata["required"]


def test_the_policy_is_read_from_the_contract(echo: Echo) -> None:
    policy = access_policy([SERVICE])
    assert policy[f"/{SERVICE}/Open"] == {Caller.ANYONE}
    assert policy[f"/{SERVICE}/Machines"] == {Caller.ATTEMPT, Caller.SERVICE}
    assert len(policy) == 7


def test_an_rpc_without_the_option_stops_the_build() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared.v1", syntax="proto3")
    file.message_type.add(name="Empty")
    service = file.service.add(name="Careless")
    service.method.add(name="Do", input_type=".undeclared.v1.Empty", output_type=".undeclared.v1.Empty")
    descriptor_pool.Default().Add(file)  # type: ignore[no-untyped-call]
    with pytest.raises(AccessUndeclared, match=r"undeclared\.v1\.Careless\.Do does not say"):
        access_policy(["undeclared.v1.Careless"])
    with pytest.raises(AccessUndeclared, match="not in the descriptor pool"):
        access_policy(["no.such.Service"])


def test_callers_match_the_contract() -> None:
    from reeltune.access.v1 import access_pb2

    numbers = dict(access_pb2.Caller.items())
    assert {f"CALLER_{caller.name}": caller.value for caller in Caller} == {
        name: number for name, number in numbers.items() if number
    }


class FakeAuthService:
    """Publishes keys as an auth service does, and can be switched off."""

    def __init__(self) -> None:
        self.keys = {"one": generate_private_key()}
        self.fetches = 0
        self.is_down = False

    async def fetch(self) -> dict[str, Any]:
        self.fetches += 1
        if self.is_down:
            raise ConnectionError("down")
        return {"keys": [public_jwk(pem, kid) for kid, pem in self.keys.items()]}


async def test_rotated_keys_are_found_and_fetches_are_few(token_mint: TokenMint) -> None:
    auth = FakeAuthService()
    source = JwksKeys(auth.fetch, max_age_seconds=300, min_interval_seconds=0)
    verifier = TokenVerifier(
        [TrustedIssuer(token_mint.issuer, token_mint.audience, token_mint.typ(Caller.USER), Caller.USER, source)]
    )

    def token(kid: str, pem: bytes) -> str:
        return _signed(token_mint, key=pem, header={"kid": kid})

    for _ in range(5):
        await verifier.verify(token("one", auth.keys["one"]))
    assert auth.fetches == 1
    auth.keys["two"] = generate_private_key()
    await verifier.verify(token("two", auth.keys["two"]))
    assert auth.fetches == 2
    auth.is_down = True
    await verifier.verify(token("one", auth.keys["one"]))
    with pytest.raises(TokenRejected):
        await verifier.verify(token("three", generate_private_key()))


async def test_unknown_kids_do_not_become_a_flood_of_fetches() -> None:
    auth = FakeAuthService()
    source = JwksKeys(auth.fetch, min_interval_seconds=60)
    assert await source.find("one") is not None
    for number in range(50):
        assert await source.find(f"made-up-{number}") is None
    assert auth.fetches == 1


async def test_a_caller_that_gives_up_takes_nobodys_keys_along() -> None:
    """A client that is cut off while the first keys are fetched must not get the next one's good token refused."""
    auth = FakeAuthService()
    may_answer = asyncio.Event()

    async def fetch() -> dict[str, Any]:
        assert remaining_seconds() is None, "nor is the fetch bound by the deadline of who happened to need it"
        await may_answer.wait()
        return await auth.fetch()

    async def find_in_a_hurry() -> None:
        set_deadline(0.01)
        await source.find("one")

    source = JwksKeys(fetch, min_interval_seconds=60)
    cut_off = asyncio.create_task(find_in_a_hurry())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(source.find("one"))
    await asyncio.sleep(0)
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    late = asyncio.create_task(source.find("one"))
    await asyncio.sleep(0)
    may_answer.set()
    assert await waiting is not None
    assert await late is not None
    assert auth.fetches == 1


async def test_aged_keys_stay_good_while_the_auth_service_is_down() -> None:
    auth = FakeAuthService()
    source = JwksKeys(auth.fetch, max_age_seconds=0, min_interval_seconds=60)
    assert await source.find("one") is not None
    auth.is_down = True
    assert await source.find("one") is not None


async def test_who_starts_while_the_auth_service_is_down_sends_nobody_to_sign_in_again(
    token_mint: TokenMint, serve: Serve, echo: Echo, servicer: EchoServicer
) -> None:
    auth = FakeAuthService()
    auth.is_down = True
    keys = JwksKeys(auth.fetch, min_interval_seconds=0)
    issuer = TrustedIssuer(token_mint.issuer, token_mint.audience, token_mint.typ(Caller.USER), Caller.USER, keys)
    token = _signed(token_mint, key=auth.keys["one"], header={"kid": "one"})
    served = await serve([echo.registration(servicer)], verifier=TokenVerifier([issuer]))
    stub = echo.stub(served.channel)
    request = echo.pb.UnaryRequest(word=echo.word("x"))

    failure = await failure_of(stub.Unary(request, metadata=bearer(token)))

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE")
    auth.is_down = False
    assert (await stub.Unary(request, metadata=bearer(token))).caller == "usr_1"


def test_a_signer_cannot_be_talked_into_other_standard_claims(token_mint: TokenMint) -> None:
    token = token_mint.token(Caller.USER, "usr_1", claims={"sub": "usr_2", "aud": "other"}, ttl=timedelta(minutes=1))
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == ("usr_1", token_mint.audience)


async def test_a_remembered_token_ends_at_its_expiry_and_is_told_from_its_neighbour(
    token_mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = TokenMint().verifier  # with another key: accepts nothing of ours
    token = token_mint.token(Caller.USER, "usr_1", ttl=timedelta(seconds=60))
    with pytest.raises(TokenRejected):
        await verifier.verify(token)
    first = await token_mint.verifier.verify(token)
    assert await token_mint.verifier.verify(token) is first
    for changed in (token[:-1], token + "A", token.replace(".", "..", 1)):
        with pytest.raises(TokenRejected):
            await token_mint.verifier.verify(changed)
    expired = first.claims["exp"] + LEEWAY.total_seconds() + 1
    remembered = token_mint.verifier._recent
    monkeypatch.setattr(tokens_module.time, "time", lambda: expired)
    assert remembered.find(token) is None


async def test_a_withdrawn_key_stops_working_within_seconds(
    token_mint: TokenMint, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"one": public_pem(FOREIGN_KEY)}

    class Withdrawable:
        async def find(self, kid: str) -> Any:
            return await StaticKeys(keys).find(kid)

    verifier = TokenVerifier(
        [
            TrustedIssuer(
                token_mint.issuer, token_mint.audience, token_mint.typ(Caller.USER), Caller.USER, Withdrawable()
            )
        ]
    )
    token = _signed(token_mint, key=FOREIGN_KEY, header={"kid": "one"})
    assert tokens_module._REMEMBER_SECONDS <= 30
    monkeypatch.setattr(tokens_module, "_REMEMBER_SECONDS", 0)
    await verifier.verify(token)
    keys.clear()
    with pytest.raises(TokenRejected):
        await verifier.verify(token)
