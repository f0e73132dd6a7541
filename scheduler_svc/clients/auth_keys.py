"""What the auth service says of access tokens: its public keys, and which sessions have ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    revocation_service_pb2,
    revocation_service_pb2_grpc,
)

_TIMEOUT_SECONDS = 5


class AuthKeys:
    """Fetches the key set and the ended sessions."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._revocations = revocation_service_pb2_grpc.RevocationServiceStub(channel)

    async def fetch_revocations(self) -> frozenset[bytes]:
        """Returns the digests of the sessions that have ended lately."""
        request = revocation_service_pb2.ListRevocationsRequest()
        response = await self._revocations.ListRevocations(request, timeout=_TIMEOUT_SECONDS)
        return frozenset(response.session_digests)

    async def fetch(self) -> Mapping[str, Any]:
        """Returns the key set as of RFC 7517."""
        response = await self._auth.GetJwks(auth_service_pb2.GetJwksRequest(), timeout=_TIMEOUT_SECONDS)
        return {"keys": [MessageToDict(key, preserving_proto_field_name=True) for key in response.keys]}
