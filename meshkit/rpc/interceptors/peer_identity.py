"""Before any credential is looked at: which service of the mesh is on the other end, and may it call this at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import structlog

from meshkit.rpc.failure import Failure
from meshkit.rpc.interceptors.step import StepInterceptor
from meshkit.rpc.peers import TRUST_DOMAIN
from meshkit.rpc.request_context import RpcContext

_SPIFFE_ID = "peer_spiffe_id"


class PeerInterceptor(StepInterceptor):
    """Holds the identity in the caller's certificate, which TLS has verified, against the service's table."""

    def __init__(self, policy: Mapping[str, frozenset[str]]) -> None:
        self._policy = policy

    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        admitted = self._policy.get(method_name)
        if admitted is None:
            return request  # health; what nobody serves is refused by the authentication step
        identity = _identity(context)
        structlog.contextvars.bind_contextvars(peer_identity=identity or "none")
        if identity not in admitted:
            raise _not_admitted(identity, method_name)
        return request


def _identity(context: RpcContext) -> str | None:
    """Returns NAME of `spiffe://reeltune/NAME`, or None for a certificate that names no one of the mesh."""
    found = [bytes(value).decode("ascii", "replace") for value in context.auth_context().get(_SPIFFE_ID, ())]
    if len(found) != 1 or not found[0].startswith(TRUST_DOMAIN):
        return None
    return found[0].removeprefix(TRUST_DOMAIN)


def _not_admitted(identity: str | None, method_name: str) -> Failure:
    who = f"the identity {identity!r}" if identity else f"a certificate without a {TRUST_DOMAIN}… name"
    return Failure(
        code=grpc.StatusCode.PERMISSION_DENIED,
        reason="PEER_NOT_ADMITTED",
        message=f"{who} may not call {method_name}; call it with the certificate of a service that may, or at the edge",
        metadata={"rpc": method_name, "peer": identity or ""},
    )
