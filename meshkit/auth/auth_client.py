"""What the auth service says of access tokens: its public keys, and which sessions have ended."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1.auth_service_pb2 import GetJwksRequest
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from reeltune.auth.v1.revocation_service_pb2 import ListRevocationsRequest
from reeltune.auth.v1.revocation_service_pb2_grpc import RevocationServiceStub

_TIMEOUT_SECONDS = 5


class AuthClient:
    """Fetches, for `JwksKeys` and `Revocations`. Raises what gRPC raises."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth = AuthServiceStub(channel)
        self._revocations = RevocationServiceStub(channel)

    async def fetch_jwks(self) -> dict[str, Any]:
        """The key set, as of RFC 7517."""
        response = await self._auth.GetJwks(GetJwksRequest(), timeout=_TIMEOUT_SECONDS)
        return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}

    async def fetch_revocations(self) -> frozenset[bytes]:
        """The digests of the sessions that have ended lately."""
        response = await self._revocations.ListRevocations(ListRevocationsRequest(), timeout=_TIMEOUT_SECONDS)
        return frozenset(response.session_digests)
