"""Signing in and staying signed in."""

from __future__ import annotations

import time

import grpc
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import session_pb2, user_pb2
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from meshkit.rpc.client import bearer
from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client.credentials import Credentials, CredentialStore
from reeltune_cli.client.errors import ClientError

_EARLY_SECONDS = 60
"""An access token is renewed this long before it ends: no call shall start with one that ends on the way."""
_TIMEOUT_SECONDS = 30


class Session:
    """A user's session at a mesh, kept in a credential store and refreshed when needed."""

    def __init__(self, channel: grpc.aio.Channel, store: CredentialStore) -> None:
        self._stub = AuthServiceStub(channel)
        self._store = store

    @property
    def username(self) -> str | None:
        """The signed-in user's name, as far as this side knows."""
        credentials = self._store.load()
        return credentials.username if credentials else None

    async def sign_up(self, username: str, email: str, password: str) -> user_pb2.User:
        """Makes a user and signs in."""
        request = auth.SignUpRequest(username=username, email=email, password=password)
        answer = await self._stub.SignUp(request, timeout=_TIMEOUT_SECONDS)
        await self._keep(answer.user.username, answer.tokens)
        return answer.user

    async def log_in(self, username: str, password: str) -> user_pb2.User:
        """Signs in; `username` may be the e-mail address."""
        request = auth.LoginRequest(username=username, password=password)
        answer = await self._stub.Login(request, timeout=_TIMEOUT_SECONDS)
        await self._keep(answer.user.username, answer.tokens)
        return answer.user

    async def log_out(self) -> str | None:
        """Ends the session and forgets it, also when the mesh cannot be reached; returns whose it was."""
        credentials = self._store.load()
        if credentials is None:
            return None
        try:
            token = await self.access_token()
            await self._stub.Logout(auth.LogoutRequest(), metadata=bearer(token), timeout=_TIMEOUT_SECONDS)
        except ClientError as error:
            if error.reason != "NOT_SIGNED_IN":
                raise
        finally:
            async with self._store.lock():
                self._store.clear()
        return credentials.username

    async def access_token(self) -> str:
        """Returns an access token that is good for a while, refreshed if need be.

        Raises:
            ClientError: nobody is signed in, or the session has ended.
        """
        credentials = self._store.load()
        if credentials is None:
            raise _not_signed_in()
        if _is_fresh(credentials):
            return credentials.access_token
        async with self._store.lock():
            # Somebody else may have refreshed while we waited; the token that we know would then be spent.
            credentials = self._store.load()
            if credentials is None:
                raise _not_signed_in()
            if not _is_fresh(credentials):
                credentials = await self._refresh(credentials)
            return credentials.access_token

    async def _refresh(self, credentials: Credentials) -> Credentials:
        request = auth.RefreshSessionRequest(refresh_token=credentials.refresh_token)
        try:
            answer = await self._stub.RefreshSession(request, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if failure_from_rpc_error(error).reason != "REFRESH_TOKEN_INVALID":
                raise
            self._store.clear()
            raise ClientError(
                f"the session of {credentials.username} has ended", "NOT_SIGNED_IN", "sign in again: reeltune login"
            ) from error
        refreshed = _credentials(credentials.username, answer.tokens)
        self._store.save(refreshed)
        return refreshed

    async def _keep(self, username: str, tokens: session_pb2.SessionTokens) -> None:
        async with self._store.lock():
            self._store.save(_credentials(username, tokens))


def _credentials(username: str, tokens: session_pb2.SessionTokens) -> Credentials:
    return Credentials(
        username=username,
        access_token=tokens.access_token,
        access_expire_time=tokens.access_expire_time.ToMilliseconds() / 1000,
        refresh_token=tokens.refresh_token,
        refresh_expire_time=tokens.refresh_expire_time.ToMilliseconds() / 1000,
    )


def _is_fresh(credentials: Credentials) -> bool:
    return time.time() < credentials.access_expire_time - _EARLY_SECONDS


def _not_signed_in() -> ClientError:
    return ClientError(
        "nobody is signed in", "NOT_SIGNED_IN", "sign in: reeltune login (or make a user: reeltune signup)"
    )
