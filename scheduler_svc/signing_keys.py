"""The keys that sign worker tokens and grants: PEM files in a folder that replicas share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from meshkit.auth.tokens import generate_private_key, public_jwk, public_pem

_SUFFIX = ".pem"
_FIRST_NAME = f"0001{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the name that tokens give it."""

    kid: str
    private_pem: bytes = field(repr=False)

    @property
    def public_pem(self) -> bytes:
        return public_pem(self.private_pem)

    @property
    def jwk(self) -> dict[str, str]:
        return public_jwk(self.private_pem, self.kid)


def load_signing_keys(folder: Path) -> tuple[SigningKey, ...]:
    """Returns the keys, the one that signs first: the last by file name. An empty folder gets its first key.

    Raises:
        OSError: the folder cannot be read or written.
        ValueError: a file holds no P-256 key.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(folder.glob(f"*{_SUFFIX}")):
        _create_first(folder)
    keys = [_key_from_file(path) for path in sorted(folder.glob(f"*{_SUFFIX}"), reverse=True)]
    return tuple(keys)


def _create_first(folder: Path) -> None:
    """Writes a key under another name and links it in place: of replicas that start together one wins, whole."""
    scratch = folder / f".{secrets.token_hex(8)}"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(generate_private_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(scratch, folder / _FIRST_NAME)
    finally:
        scratch.unlink()


def _key_from_file(path: Path) -> SigningKey:
    private_pem = path.read_bytes()
    try:
        kid = hashlib.sha256(public_pem(private_pem)).hexdigest()[:16]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name} in the keys folder holds no P-256 private key: {error}") from error
    return SigningKey(kid, private_pem)
