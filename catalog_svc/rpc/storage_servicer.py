"""`reeltune.catalog.v1.StorageService`."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.catalog.v1 import storage_service_pb2 as pb
from reeltune.catalog.v1 import storage_service_pb2_grpc

from catalog_svc.domain.storage import DEFAULT_REGION, LocationId, OpenLocation
from catalog_svc.rpc.caller import Context, calling_user
from catalog_svc.rpc.import_messages import credentials_from_proto, location_to_proto
from catalog_svc.usecases.manage_locations import ManageLocations


@dataclass(frozen=True, slots=True)
class StorageServicer(storage_service_pb2_grpc.StorageServiceServicer):
    """Keeps storage locations."""

    manage_locations: ManageLocations

    async def CreateStorageLocation(
        self, request: pb.CreateStorageLocationRequest, context: Context
    ) -> pb.CreateStorageLocationResponse:
        credentials = credentials_from_proto(request.credentials) if request.HasField("credentials") else None
        place = OpenLocation(request.endpoint, request.region or DEFAULT_REGION, request.bucket, credentials)
        made = await self.manage_locations.create(calling_user(), request.name, place)
        return pb.CreateStorageLocationResponse(storage_location=location_to_proto(made))

    async def GetStorageLocation(
        self, request: pb.GetStorageLocationRequest, context: Context
    ) -> pb.GetStorageLocationResponse:
        found = await self.manage_locations.get(calling_user(), LocationId(request.storage_location_id))
        return pb.GetStorageLocationResponse(storage_location=location_to_proto(found))

    async def ListStorageLocations(
        self, request: pb.ListStorageLocationsRequest, context: Context
    ) -> pb.ListStorageLocationsResponse:
        found = await self.manage_locations.list_all(calling_user())
        return pb.ListStorageLocationsResponse(storage_locations=[location_to_proto(one) for one in found])

    async def UpdateStorageCredentials(
        self, request: pb.UpdateStorageCredentialsRequest, context: Context
    ) -> pb.UpdateStorageCredentialsResponse:
        changed = await self.manage_locations.set_credentials(
            calling_user(), LocationId(request.storage_location_id), credentials_from_proto(request.credentials)
        )
        return pb.UpdateStorageCredentialsResponse(storage_location=location_to_proto(changed))

    async def DeleteStorageLocation(
        self, request: pb.DeleteStorageLocationRequest, context: Context
    ) -> pb.DeleteStorageLocationResponse:
        await self.manage_locations.delete(calling_user(), LocationId(request.storage_location_id))
        return pb.DeleteStorageLocationResponse()
