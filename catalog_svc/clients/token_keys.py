"""The public keys of attempt grants, fetched from the scheduler, which signs them."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.scheduler.v1 import attempt_service_pb2, attempt_service_pb2_grpc

from meshkit.auth.keys import JwksFetch


def attempt_grant_keys(channel: grpc.aio.Channel) -> JwksFetch:
    """Fetches the keys of attempt grants from the scheduler."""
    stub = attempt_service_pb2_grpc.AttemptServiceStub(channel)

    async def fetch() -> dict[str, Any]:
        return MessageToDict(await stub.GetJwks(attempt_service_pb2.GetJwksRequest()), preserving_proto_field_name=True)

    return fetch
