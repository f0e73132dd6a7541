"""The auth service's public keys, which verify access tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc

_TIMEOUT_SECONDS = 5


class AuthKeys:
    """Fetches the key set."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)

    async def fetch(self) -> Mapping[str, Any]:
        """Returns the key set as of RFC 7517."""
        response = await self._auth.GetJwks(auth_service_pb2.GetJwksRequest(), timeout=_TIMEOUT_SECONDS)
        return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}
