"""`reeltune.catalog.v1.UploadService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from reeltune.catalog.v1 import upload_service_pb2 as pb
from reeltune.catalog.v1 import upload_service_pb2_grpc

from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.errors import UploadStalled
from catalog_svc.domain.upload import UploadId
from catalog_svc.rpc.caller import Context, calling_token, calling_user
from catalog_svc.rpc.convert import file_to_proto, header_from_proto, upload_to_proto
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE
from catalog_svc.usecases.manage_files import ManageFiles
from catalog_svc.usecases.upload_by_parts import UploadByParts, Wanted
from catalog_svc.usecases.upload_by_stream import UploadByStream
from meshkit.rpc.failure import invalid_field
from meshkit.rpc.paging import PageTokens, page_size

_DEFAULT_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class UploadServicer(upload_service_pb2_grpc.UploadServiceServicer):
    """Takes, lists and removes the files of datasets and models."""

    upload_by_parts: UploadByParts
    upload_by_stream: UploadByStream
    manage_files: ManageFiles
    page_tokens: PageTokens

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Context) -> pb.CreateUploadResponse:
        wanted = Wanted(header_from_proto(request.file), request.accepts_headers)
        offer = await self.upload_by_parts.open(calling_user(), calling_token(), wanted)
        return pb.CreateUploadResponse(upload=upload_to_proto(offer))

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Context) -> pb.CompleteUploadResponse:
        stored = await self.upload_by_parts.complete(calling_user(), UploadId(request.upload_id))
        return pb.CompleteUploadResponse(file=file_to_proto(stored))

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        requests = aiter(request_iterator)
        try:
            async with asyncio.timeout(self.upload_by_stream.stall_seconds):
                first = await anext(requests, None)
        except TimeoutError:
            raise UploadStalled(self.upload_by_stream.stall_seconds) from None
        if first is None or first.WhichOneof("payload") != "header":
            raise invalid_field("header", "the first message of the stream must be the file's header")
        stored = await self.upload_by_stream.upload(
            calling_user(), calling_token(), header_from_proto(first.header), _chunks(requests)
        )
        return pb.UploadFileResponse(file=file_to_proto(stored))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        user, binding = calling_user(), f"files:{request.parent_id}"
        position = self.page_tokens.decode(request.page_token, caller=user, filter=binding)
        size = page_size(request.page_size, default=_DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        after = "" if position is None else str(position[0])
        found = await self.manage_files.list_page(
            _kind_of(request.parent_id), EntryId(request.parent_id), user, after, size + 1
        )
        response = pb.ListFilesResponse(files=[file_to_proto(file) for file in found[:size]])
        if len(found) > size:
            last = found[size - 1].path
            response.next_page_token = self.page_tokens.encode((last,), caller=user, filter=binding)
        return response

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> pb.DeleteFileResponse:
        if "\0" in request.path:  # no stored path holds it, and Postgres cannot even compare with it
            raise invalid_field("path", "holds a NUL character; no file has such a path")
        await self.manage_files.delete(
            _kind_of(request.parent_id), EntryId(request.parent_id), calling_user(), request.path
        )
        return pb.DeleteFileResponse()


async def _chunks(requests: AsyncIterator[pb.UploadFileRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("payload") != "chunk":
            raise invalid_field("header", "only the first message of the stream may be a header")
        yield request.chunk


def _kind_of(parent_id: str) -> EntryKind:
    return EntryKind.DATASET if parent_id.startswith("ds_") else EntryKind.MODEL
