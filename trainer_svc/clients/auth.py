"""The auth service: the keys that users' tokens are verified with."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1.auth_service_pb2 import GetJwksRequest
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub


class AuthClient:
    """`AuthService.GetJwks`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AuthServiceStub(channel)

    async def fetch_jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set that the auth service publishes."""
        response = await self._stub.GetJwks(GetJwksRequest())
        return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}
