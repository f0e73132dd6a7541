"""What the tests of the auth service speak with it by."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from reeltune.auth.v1 import auth_service_pb2 as auth
from reeltune.auth.v1 import session_pb2
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from reeltune.auth.v1.user_service_pb2_grpc import UserServiceStub

from auth_svc.settings import AuthSettings
from meshkit.postgres import Pool
from meshkit.rpc.client import bearer
from meshkit.rpc.failure import Failure
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import Served

PASSWORD = "seven green boats sail"


@dataclass(slots=True)
class AuthMesh:
    """A running auth service and what a test needs to speak with it."""

    served: Served
    settings: AuthSettings
    pool: Pool
    _numbers: itertools.count[int]

    @property
    def auth(self) -> AuthServiceStub:
        return AuthServiceStub(self.served.channel)

    @property
    def users(self) -> UserServiceStub:
        return UserServiceStub(self.served.channel)

    async def sign_up(self, username: str = "", password: str = PASSWORD) -> auth.SignUpResponse:
        """Signs up a user of this or a fresh name."""
        name = username or f"user{next(self._numbers)}"
        return await self.auth.SignUp(auth.SignUpRequest(username=name, email=f"{name}@example.org", password=password))

    async def sign_up_admin(self) -> tuple[auth.SignUpResponse, tuple[tuple[str, str], ...]]:
        """Signs up an admin; returns them and call metadata that says so."""
        user = await self.sign_up()
        await self.pool.execute("UPDATE users SET roles = '{user,admin}' WHERE id = $1", user.user.id)
        tokens = (await self.refresh(user.tokens.refresh_token)).tokens
        return user, credentials(tokens)

    async def refresh(self, refresh_token: str) -> auth.RefreshSessionResponse:
        return await self.auth.RefreshSession(auth.RefreshSessionRequest(refresh_token=refresh_token))

    async def login(self, username: str, password: str = PASSWORD, **options: Any) -> auth.LoginResponse:
        return await self.auth.Login(auth.LoginRequest(username=username, password=password), **options)


def credentials(tokens: session_pb2.SessionTokens) -> tuple[tuple[str, str], ...]:
    """Returns the call metadata of a session."""
    return bearer(tokens.access_token)


async def failure_of(call: Awaitable[Any]) -> Failure:
    """Returns how a call failed, and fails the test if it did not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_from_rpc_error(caught.value)


Start = Callable[..., Awaitable[AuthMesh]]
"""Starts the service; keyword arguments override settings."""
