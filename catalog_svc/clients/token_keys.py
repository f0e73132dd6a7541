"""The public keys of those who sign tokens, and which sessions have ended, fetched from those who know."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from reeltune.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    revocation_service_pb2,
    revocation_service_pb2_grpc,
)
from reeltune.scheduler.v1 import attempt_service_pb2, attempt_service_pb2_grpc

from meshkit.auth.keys import JwksFetch
from meshkit.auth.revocations import RevocationFetch


def user_token_keys(channel: grpc.aio.Channel) -> JwksFetch:
    """Fetches the keys of user tokens from the auth service."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)

    async def fetch() -> dict[str, Any]:
        return MessageToDict(await stub.GetJwks(auth_service_pb2.GetJwksRequest()), preserving_proto_field_name=True)

    return fetch


def ended_sessions(channel: grpc.aio.Channel) -> RevocationFetch:
    """Fetches the sessions that have ended lately from the auth service."""
    stub = revocation_service_pb2_grpc.RevocationServiceStub(channel)

    async def fetch() -> frozenset[bytes]:
        return frozenset((await stub.ListRevocations(revocation_service_pb2.ListRevocationsRequest())).session_digests)

    return fetch


def attempt_grant_keys(channel: grpc.aio.Channel) -> JwksFetch:
    """Fetches the keys of attempt grants from the scheduler."""
    stub = attempt_service_pb2_grpc.AttemptServiceStub(channel)

    async def fetch() -> dict[str, Any]:
        return MessageToDict(await stub.GetJwks(attempt_service_pb2.GetJwksRequest()), preserving_proto_field_name=True)

    return fetch
