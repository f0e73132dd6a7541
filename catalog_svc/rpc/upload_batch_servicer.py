"""`reeltune.catalog.v1.UploadBatchService`."""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import status_pb2
from reeltune.catalog.v1 import upload_batch_service_pb2 as pb
from reeltune.catalog.v1 import upload_batch_service_pb2_grpc

from catalog_svc.domain.upload import UploadId
from catalog_svc.rpc.caller import Context, calling_token, calling_user
from catalog_svc.rpc.convert import file_to_proto, header_from_proto, upload_to_proto
from catalog_svc.usecases.upload_by_parts import UploadByParts, Wanted
from meshkit.rpc.failure import ErrorTable
from meshkit.rpc.interceptors.errors import failure_to_report
from meshkit.rpc.status import status_from_failure


@dataclass(frozen=True, slots=True)
class UploadBatchServicer(upload_batch_service_pb2_grpc.UploadBatchServiceServicer):
    """Opens and completes many uploads by one call."""

    upload_by_parts: UploadByParts
    error_table: ErrorTable

    async def BatchCreateUploads(
        self, request: pb.BatchCreateUploadsRequest, context: Context
    ) -> pb.BatchCreateUploadsResponse:
        wanted = [Wanted(header_from_proto(one.file), one.accepts_headers) for one in request.requests]
        offers = await self.upload_by_parts.open_many(calling_user(), calling_token(), wanted)
        response = pb.BatchCreateUploadsResponse()
        for one, offer in zip(wanted, offers, strict=True):
            result = response.results.add(path=one.header.path)
            if isinstance(offer, Exception):
                result.error.CopyFrom(self._status(offer))
            else:
                result.upload.CopyFrom(upload_to_proto(offer))
        return response

    async def BatchCompleteUploads(
        self, request: pb.BatchCompleteUploadsRequest, context: Context
    ) -> pb.BatchCompleteUploadsResponse:
        ids = [UploadId(one.upload_id) for one in request.requests]
        files = await self.upload_by_parts.complete_many(calling_user(), ids)
        response = pb.BatchCompleteUploadsResponse()
        for upload_id, file in zip(ids, files, strict=True):
            result = response.results.add(upload_id=upload_id)
            if isinstance(file, Exception):
                result.error.CopyFrom(self._status(file))
            else:
                result.file.CopyFrom(file_to_proto(file))
        return response

    def _status(self, error: Exception) -> status_pb2.Status:
        """Returns what a call for one file ends with: also an error that nobody has foreseen is that of one file."""
        return status_from_failure(failure_to_report(error, self.error_table))
