"""The auth service: the keys that users' tokens are verified with, and which sessions have ended."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1.auth_service_pb2 import GetJwksRequest
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from reeltune.auth.v1.revocation_service_pb2 import ListRevocationsRequest
from reeltune.auth.v1.revocation_service_pb2_grpc import RevocationServiceStub


class AuthClient:
    """`AuthService.GetJwks` and `RevocationService.ListRevocations`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AuthServiceStub(channel)
        self._revocations = RevocationServiceStub(channel)

    async def fetch_revocations(self) -> frozenset[bytes]:
        """The digests of the sessions that have ended lately."""
        response = await self._revocations.ListRevocations(ListRevocationsRequest())
        return frozenset(response.session_digests)

    async def fetch_jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set that the auth service publishes."""
        response = await self._stub.GetJwks(GetJwksRequest())
        return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}
