"""Fifth step: who calls, and may they. What no contract opens is closed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import grpc
import structlog

from meshkit.auth.keys import KeysUnavailable
from meshkit.auth.principal import ANONYMOUS, Caller, Principal, current_principal, set_current_principal
from meshkit.auth.revocations import NO_REVOCATIONS, Revocations
from meshkit.auth.tokens import TokenRejected
from meshkit.rpc.failure import Failure
from meshkit.rpc.interceptors.session_bounds import BoundedStream, session_ended
from meshkit.rpc.interceptors.step import Handler, StepInterceptor
from meshkit.rpc.request_context import RpcContext

_ONLY_ANYONE = frozenset({Caller.ANYONE})


class Verifier(Protocol):
    """Turns a bearer credential into a principal, or raises TokenRejected."""

    async def verify(self, token: str) -> Principal: ...


class AuthenticationInterceptor(StepInterceptor):
    """Verifies `authorization: Bearer …` and holds the principal against the rpc's `callers`."""

    def __init__(
        self,
        verifier: Verifier,
        policy: Mapping[str, frozenset[Caller]],
        revocations: Revocations = NO_REVOCATIONS,
    ) -> None:
        self._verifier = verifier
        self._policy = policy
        self._revocations = revocations

    async def intercept(self, method: Handler, request_or_iterator: Any, context: RpcContext, method_name: str) -> Any:
        request = await self.before(request_or_iterator, context, method_name)
        response = method(request, context)
        principal = current_principal()
        is_response_stream = hasattr(response, "__aiter__")
        is_request_stream = hasattr(request_or_iterator, "__aiter__")
        if principal.kind is not Caller.USER or not (is_response_stream or is_request_stream):
            return response if is_response_stream else await response
        # A watch has no end of its own. What has one, such as a download, may come to it.
        is_watch = method_name.rpartition("/")[2].startswith("Watch")
        stream = BoundedStream(principal, self._revocations, ends_with_token=is_watch)
        return stream.responses(response) if is_response_stream else await stream.response(response)

    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        callers = self._policy.get(method_name)
        if callers is None:
            raise _unknown_rpc(method_name)
        principal = await self._principal(context, callers)
        if not principal.is_admitted_by(callers):
            raise _missing_token() if principal.kind is Caller.ANYONE else _not_admitted(callers)
        set_current_principal(principal)
        if principal.subject:
            structlog.contextvars.bind_contextvars(caller=principal.subject)
        return request

    async def _principal(self, context: RpcContext, callers: frozenset[Caller]) -> Principal:
        values = [str(v) for k, v in context.invocation_metadata() or () if k == "authorization"]
        if not values or callers == _ONLY_ANYONE:
            return ANONYMOUS
        try:
            principal = await self._verifier.verify(_bearer_token(values))
            if self._revocations.covers(principal):
                if Caller.ANYONE in callers:
                    return ANONYMOUS
                raise session_ended()
            return principal
        except TokenRejected as error:
            # Where nobody has to sign in, an old token is as good as none: signing in again must not need its removal.
            if Caller.ANYONE in callers:
                return ANONYMOUS
            structlog.get_logger().info("auth.token_rejected", cause=str(error))
            raise _invalid_token() from error
        except KeysUnavailable as error:
            if Caller.ANYONE in callers:
                return ANONYMOUS
            raise _no_keys() from error


def _bearer_token(values: list[str]) -> str:
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1:
        raise TokenRejected("more than one authorization header")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRejected("not a bearer token")
    return token.strip()


def _missing_token() -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAUTHENTICATED,
        reason="TOKEN_MISSING",
        message="this call needs a credential: sign in and send `authorization: Bearer <access token>`",
    )


def _invalid_token() -> Failure:
    return Failure(
        code=grpc.StatusCode.UNAUTHENTICATED,
        reason="TOKEN_INVALID",
        message="the credential is not valid here or has expired; refresh the session or sign in again",
    )


def _no_keys() -> Failure:
    # A service that started while the issuer was away: whoever is signed in must not be told to sign in again.
    return Failure(
        code=grpc.StatusCode.UNAVAILABLE,
        reason="KEYS_UNAVAILABLE",
        message="the credential cannot be verified at the moment; try again in a second",
        retry_after=timedelta(seconds=1),
    )


def _not_admitted(callers: frozenset[Caller]) -> Failure:
    needed = ", ".join(sorted(caller.name.lower() for caller in callers))
    return Failure(
        code=grpc.StatusCode.PERMISSION_DENIED,
        reason="ROLE_REQUIRED",
        message=f"this call is open to: {needed}; sign in as one of these",
        metadata={"required": needed},
    )


def _unknown_rpc(method_name: str) -> Failure:
    name = method_name[:200]
    return Failure(
        code=grpc.StatusCode.UNIMPLEMENTED,
        reason="RPC_UNKNOWN",
        message=f"this server has no rpc {name}; compare the client's contracts with the server's version",
        metadata={"rpc": name},
    )
