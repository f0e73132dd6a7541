from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from auth_svc.domain.signing_key import SigningKey, choose_signer
from auth_svc.store.key_folder import KeyFolder, KeyFolderError, thumbprint
from auth_svc.usecases.key_ring import KeyRing
from meshkit.auth.tokens import public_jwk

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ACTIVATION = timedelta(minutes=10)


def key(kid: str, age: timedelta) -> SigningKey:
    return SigningKey(kid=kid, private_pem=b"", create_time=NOW - age)


def test_the_newest_key_that_everybody_can_know_signs() -> None:
    old, middle, new = key("old", timedelta(days=9)), key("mid", ACTIVATION), key("new", timedelta(minutes=9))
    assert choose_signer([new, old, middle], NOW, ACTIVATION) is middle
    assert choose_signer([new, old], NOW, ACTIVATION) is old
    assert choose_signer([new], NOW, ACTIVATION) is new
    with pytest.raises(ValueError, match="no signing key"):
        choose_signer([], NOW, ACTIVATION)


def test_thumbprint_is_that_of_rfc_7638() -> None:
    # The key of RFC 7515, appendix A.3.
    private = ECAlgorithm.from_jwk(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
        }
    )
    assert isinstance(private, EllipticCurvePrivateKey)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert thumbprint(pem) == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def test_first_start_makes_one_private_key_even_if_replicas_start_together(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: KeyFolder(folder).ensure_keys(), range(8)))
    assert {tuple(key.kid for key in keys) for keys in found} == {(found[0][0].kid,)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [file for file in folder.iterdir() if file.suffix in (".pem", ".key")]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_rotation_keeps_two_keys_and_publishes_before_it_signs(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    clock = [datetime.now(UTC)]
    ring = KeyRing(folder, ACTIVATION, now=lambda: clock[0])
    first = ring.public_keys()[0]["kid"]
    clock[0] += timedelta(days=1)
    second = folder.rotate(clock[0]).kid
    ring.reload()
    assert [jwk["kid"] for jwk in ring.public_keys()] == [first, second]
    clock[0] += ACTIVATION
    assert [jwk["kid"] for jwk in ring.public_keys()] == [second, first]
    clock[0] += timedelta(days=1)
    third = folder.rotate(clock[0]).kid
    ring.reload()
    assert [jwk["kid"] for jwk in ring.public_keys()] == [second, third]


async def test_a_key_that_is_gone_verifies_nothing(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    ring = KeyRing(folder, ACTIVATION)
    first = folder.load_keys()[0]
    assert await ring.find(first.kid) is not None
    now = datetime.now(UTC)
    folder.rotate(now + timedelta(seconds=1))
    folder.rotate(now + timedelta(seconds=2))
    ring.reload()
    assert await ring.find(first.kid) is None


def test_public_keys_hold_no_private_member(tmp_path: Path) -> None:
    ring = KeyRing(KeyFolder(tmp_path), ACTIVATION)
    assert all(set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"} for jwk in ring.public_keys())
    pem = KeyFolder(tmp_path).load_keys()[0].private_pem
    assert public_jwk(pem, thumbprint(pem)) == ring.public_keys()[0]


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    KeyFolder(tmp_path).ensure_keys()
    file = next(tmp_path.glob("*.pem"))
    file.chmod(0o644)
    with pytest.raises(KeyFolderError, match="chmod 600"):
        KeyFolder(tmp_path).ensure_keys()


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "signing-20260101T000000000000Z.pem"
    file.write_text("not a key")
    file.chmod(0o600)
    with pytest.raises(KeyFolderError, match=file.name):
        KeyFolder(tmp_path).ensure_keys()


def test_a_running_ring_keeps_its_keys_when_the_folder_breaks(tmp_path: Path) -> None:
    ring = KeyRing(KeyFolder(tmp_path), ACTIVATION)
    before = ring.public_keys()
    next(tmp_path.glob("*.pem")).write_text("broken")
    ring.reload()
    assert ring.public_keys() == before


def test_the_refresh_key_is_made_once(tmp_path: Path) -> None:
    assert KeyFolder(tmp_path).refresh_key() == KeyFolder(tmp_path).refresh_key()
    assert len(KeyFolder(tmp_path).refresh_key()) == 32
