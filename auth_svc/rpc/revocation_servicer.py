"""`reeltune.auth.v1.RevocationService`."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from reeltune.auth.v1 import revocation_service_pb2 as pb
from reeltune.auth.v1 import revocation_service_pb2_grpc

from auth_svc.rpc.client_address import Context
from auth_svc.usecases.list_revocations import ListRevocations


@dataclass(frozen=True, slots=True)
class RevocationServicer(revocation_service_pb2_grpc.RevocationServiceServicer):
    """Tells services whose access tokens to refuse."""

    list_revocations: ListRevocations

    async def ListRevocations(self, request: pb.ListRevocationsRequest, context: Context) -> pb.ListRevocationsResponse:
        window = Duration()
        window.FromTimedelta(self.list_revocations.window)
        return pb.ListRevocationsResponse(session_digests=await self.list_revocations(), window=window)
