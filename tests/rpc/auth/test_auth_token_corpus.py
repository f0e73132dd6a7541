"""Forged, confused and outdated tokens: none is taken for a credential."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from reeltune.auth.v1 import user_service_pb2

from auth_svc.store.key_folder import KeyFolder
from meshkit.auth.tokens import TokenSigner, generate_private_key, public_pem
from tests.rpc.auth.auth_mesh import AuthMesh, failure_of


class Forger:
    """Makes tokens from the service's own key and a live session, each wrong in one way."""

    def __init__(self, mesh: AuthMesh, access_token: str) -> None:
        self.key = KeyFolder(mesh.settings.keys_dir).load_keys()[0]
        self.genuine = access_token
        self.claims: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
        self.header: dict[str, Any] = jwt.get_unverified_header(access_token)

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """Signs these claims with the real key."""
        return jwt.encode(claims, self.key.private_pem, algorithm="ES256", headers={**self.header, **header})

    def unsigned(self, alg: str, signature: bytes = b"") -> str:
        header = {**self.header, "alg": alg}
        return ".".join((_b64(json.dumps(header).encode()), self.genuine.split(".")[1], _b64(signature)))

    def without(self, claim: str) -> str:
        return self.signed({name: value for name, value in self.claims.items() if name != claim})

    def corpus(self) -> dict[str, str]:
        now = int(time.time())
        foreign_pem = generate_private_key()
        signer = {"kid": self.key.kid, "issuer": "reeltune-auth", "audience": "reeltune"}
        subject, ttl = self.claims["sub"], timedelta(minutes=5)
        head, body, signature = self.genuine.split(".")
        none_head = _b64(json.dumps({**self.header, "alg": "none"}).encode())
        hmac_head = _b64(json.dumps({**self.header, "alg": "HS256"}).encode())
        secret = public_pem(self.key.private_pem)
        hmac_signature = _b64(hmac.digest(secret, f"{hmac_head}.{body}".encode(), hashlib.sha256))
        other = {**self.claims, "sub": "usr_00000000000000000000000000"}
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return {
            "not a token": "nonsense",
            "two parts": f"{head}.{body}",
            "four parts": f"{self.genuine}.x",
            "alg none": self.unsigned("none"),
            "alg None": self.unsigned("None"),
            "alg none with a signature": f"{none_head}.{body}.{signature}",
            "HS256 with the public key as secret": f"{hmac_head}.{body}.{hmac_signature}",
            "RS256": jwt.encode(self.claims, rsa_key, algorithm="RS256", headers=self.header | {"alg": "RS256"}),
            "EdDSA": jwt.encode(
                self.claims,
                ed25519.Ed25519PrivateKey.generate(),
                algorithm="EdDSA",
                headers=self.header | {"alg": "EdDSA"},
            ),
            "ES384": jwt.encode(
                self.claims,
                ec.generate_private_key(ec.SECP384R1()),
                algorithm="ES384",
                headers=self.header | {"alg": "ES384"},
            ),
            "foreign key with our kid": TokenSigner(foreign_pem, typ="at+jwt", **signer).sign(subject, ttl),
            "unknown kid": self.signed(self.claims, kid="unknown"),
            "kid as a path": self.signed(self.claims, kid="../../../../dev/null"),
            "no kid": self.signed(self.claims, kid=""),
            "key inside the token": jwt.encode(
                self.claims, foreign_pem, algorithm="ES256", headers={**self.header, "jwk": {"kty": "EC"}}
            ),
            "key by URL": self.signed(self.claims, jku="https://example.org/jwks.json"),
            "critical extension": self.signed(self.claims, crit=["b64"], b64=True),
            "type JWT": self.signed(self.claims, typ="JWT"),
            "worker's type": self.signed(self.claims, typ="wk+jwt"),
            "attempt's type": self.signed(self.claims, typ="ag+jwt"),
            "foreign issuer": self.signed({**self.claims, "iss": "reeltune-scheduler"}),
            "foreign audience": self.signed({**self.claims, "aud": "reeltune-workers"}),
            "several audiences": self.signed({**self.claims, "aud": ["reeltune", "other"]}),
            "expired": self.signed({**self.claims, "exp": now - 60}),
            "issued in the future": self.signed({**self.claims, "nbf": now + 3600}),
            "exp as text": self.signed({**self.claims, "exp": "never"}),
            "roles as text": self.signed({**self.claims, "roles": "admin"}),
            "empty subject": self.signed({**self.claims, "sub": ""}),
            "changed subject": ".".join((head, _b64(json.dumps(other).encode()), signature)),
            "changed signature": f"{head}.{body}.{_flipped(signature)}",
            "empty signature": f"{head}.{body}.",
            "too long": self.signed({**self.claims, "padding": "x" * 9000}),
            "another user's session": self.signed(other),
            "no session": self.without("sid"),
            **{f"no {claim}": self.without(claim) for claim in ("iss", "aud", "sub", "exp", "jti")},
        }


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _flipped(signature: str) -> str:
    return ("A" if signature[0] != "A" else "B") + signature[1:]


async def test_the_corpus_is_refused_and_the_genuine_token_accepted(mesh: AuthMesh) -> None:
    user = await mesh.sign_up()
    forger = Forger(mesh, user.tokens.access_token)
    corpus = forger.corpus()
    assert len(corpus) >= 25
    for name, token in corpus.items():
        metadata = (("authorization", f"Bearer {token}"),)
        failure = await failure_of(mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=metadata))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), name
        assert token not in failure.message
    genuine = (("authorization", f"Bearer {forger.signed(forger.claims)}"),)
    assert (await mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=genuine)).user == user.user


@pytest.mark.parametrize("scheme", ["Basic {}", "{}", "bearer", "Token {}"])
async def test_only_bearer_credentials_count(mesh: AuthMesh, scheme: str) -> None:
    user = await mesh.sign_up()
    metadata = (("authorization", scheme.format(user.tokens.access_token)),)
    failure = await failure_of(mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=metadata))
    assert failure.reason == "TOKEN_INVALID"


async def test_two_credentials_count_as_none(mesh: AuthMesh) -> None:
    user = await mesh.sign_up()
    value = f"Bearer {user.tokens.access_token}"
    metadata = (("authorization", value), ("authorization", value))
    failure = await failure_of(mesh.users.GetMe(user_service_pb2.GetMeRequest(), metadata=metadata))
    assert failure.reason == "TOKEN_INVALID"
