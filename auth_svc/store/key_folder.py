"""The service's secrets in a folder: signing keys as PEM files and the key that refresh tokens are derived with."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from auth_svc.domain.signing_key import LIVE_KEYS, SigningKey
from meshkit.auth.tokens import generate_private_key, public_jwk

_TIME_FORMAT = "%Y%m%dT%H%M%S%fZ"
_PREFIX = "signing-"
_REFRESH_KEY = "refresh.key"
_REFRESH_KEY_BYTES = 32


class KeyFolderError(Exception):
    """The folder's content cannot be used; the text says which file and what to do."""


class KeyFolder:
    """A folder of mode 0700 with files of mode 0600; replicas of the service share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ensure_keys(self) -> list[SigningKey]:
        """Returns the live signing keys, newest first; makes the first one if there is none.

        Raises:
            KeyFolderError: a file is readable by everybody or is no signing key.
        """
        # A folder that somebody else has filled may be read-only: it has no need of a lock.
        if keys := self._load():
            return keys
        with self._locked():
            return self._load() or [self._create(datetime.now(UTC))]

    def load_keys(self) -> list[SigningKey]:
        """Returns the live signing keys, newest first."""
        return self._load()

    def rotate(self, now: datetime) -> SigningKey:
        """Makes a new signing key and deletes those that are neither it nor its predecessor."""
        with self._locked():
            key = self._create(now)
            for file in self._files()[LIVE_KEYS:]:
                file.unlink()
            return key

    def refresh_key(self) -> bytes:
        """Returns the key that refresh tokens are derived with, made on first use."""
        file = self._folder / _REFRESH_KEY
        if not file.exists():
            with self._locked():
                if not file.exists():
                    self._write(file, secrets.token_bytes(_REFRESH_KEY_BYTES))
        _check_mode(file)
        key = file.read_bytes()
        if len(key) < _REFRESH_KEY_BYTES:
            raise KeyFolderError(
                f"{file.name} has {len(key)} bytes instead of {_REFRESH_KEY_BYTES}: restore or delete it"
            )
        return key

    def _load(self) -> list[SigningKey]:
        return [_read(file) for file in self._files()[:LIVE_KEYS]]

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}*.pem"), reverse=True)

    def _create(self, now: datetime) -> SigningKey:
        file = self._folder / f"{_PREFIX}{now.astimezone(UTC).strftime(_TIME_FORMAT)}.pem"
        self._write(file, generate_private_key())
        return _read(file)

    def _write(self, file: Path, content: bytes) -> None:
        """Writes a file that is there whole or not at all, and never readable by others."""
        partial = file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(file)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps replicas that start together from each making a first key."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def thumbprint(private_pem: bytes) -> str:
    """Returns the RFC 7638 thumbprint (SHA-256, base64url) of the public half of an EC key."""
    jwk = public_jwk(private_pem, kid="")
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()


def _read(file: Path) -> SigningKey:
    _check_mode(file)
    stamp = file.stem.removeprefix(_PREFIX)
    try:
        create_time = datetime.strptime(stamp, _TIME_FORMAT).replace(tzinfo=UTC)
        pem = file.read_bytes()
        return SigningKey(kid=thumbprint(pem), private_pem=pem, create_time=create_time)
    except ValueError as error:
        raise KeyFolderError(f"{file.name} is no signing key named by its time of creation: {error}") from error


def _check_mode(file: Path) -> None:
    mode = file.stat().st_mode & 0o777
    if mode & 0o007:
        raise KeyFolderError(f"{file.name} has mode {mode:04o}, open to every account: chmod 600 {file.name}")
