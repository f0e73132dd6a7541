"""Where the tokens of a signed-in user are kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reeltune_cli.client.errors import ClientError

_FILE = "credentials.json"
_LOCK = "credentials.lock"
_LOCK_SECONDS = 60
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's session. Times are Unix seconds."""

    username: str
    access_token: str = field(repr=False)
    access_expire_time: float
    refresh_token: str = field(repr=False)
    refresh_expire_time: float


class CredentialStore(Protocol):
    """Keeps the session of one user at one mesh."""

    def load(self) -> Credentials | None: ...

    def save(self, credentials: Credentials) -> None: ...

    def clear(self) -> None: ...

    def lock(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Keeps other users of the store from refreshing: a refresh token works once."""
        ...


class MemoryCredentials:
    """A session that ends with the process: for the demo, benchmarks and tests."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None
        self._lock = asyncio.Lock()

    def load(self) -> Credentials | None:
        return self._credentials

    def save(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def clear(self) -> None:
        self._credentials = None

    @contextlib.asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        async with self._lock:
            yield


class FileCredentials:
    """`credentials.json` in the user's Reeltune folder, mode 0600, one session for each mesh; processes share it."""

    def __init__(self, home: Path, target: str) -> None:
        self._home = home
        self._target = target
        self._file = home / _FILE
        self._own_lock = asyncio.Lock()

    def load(self) -> Credentials | None:
        """Returns the session at this mesh.

        Raises:
            ClientError: the file is not one that `save` wrote.
        """
        document = self._read().get(self._target)
        try:
            return None if document is None else Credentials(**document)
        except TypeError as error:
            raise self._broken() from error

    def save(self, credentials: Credentials) -> None:
        """Replaces the session at this mesh."""
        self._write({**self._read(), self._target: asdict(credentials)})

    def clear(self) -> None:
        """Forgets the session at this mesh."""
        self._write({target: session for target, session in self._read().items() if target != self._target})

    @contextlib.asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Holds the lock file; the kernel lets go of it should this process die."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self._own_lock:
            descriptor = os.open(self._home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                await self._acquire(descriptor)
                yield
            finally:
                os.close(descriptor)

    async def _acquire(self, descriptor: int) -> None:
        give_up_at = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise ClientError(
                        f"another reeltune command holds {self._home / _LOCK}",
                        "CREDENTIALS_LOCKED",
                        "end it and try again",
                    ) from None
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise self._broken() from error
        if not isinstance(document, dict):
            raise self._broken()
        return document

    def _write(self, document: dict[str, Any]) -> None:
        """Replaces the file in one step, so that a crash never leaves half of it."""
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=2)
        partial.replace(self._file)

    def _broken(self) -> ClientError:
        return ClientError(
            f"{self._file} cannot be read", "CREDENTIALS_BROKEN", f"delete it and sign in: rm {self._file}"
        )
