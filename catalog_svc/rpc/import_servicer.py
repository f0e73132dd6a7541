"""`reeltune.catalog.v1.ImportService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from reeltune.catalog.v1 import import_service_pb2 as pb
from reeltune.catalog.v1 import import_service_pb2_grpc

from catalog_svc.domain.imports import ImportId
from catalog_svc.rpc.caller import Context, calling_token, calling_user
from catalog_svc.rpc.import_messages import draft_from_proto, failure_to_proto, import_to_proto
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE
from catalog_svc.usecases.manage_imports import ManageImports
from meshkit.rpc.paging import PageTokens, page_size

_DEFAULT_ERRORS = 100


@dataclass(frozen=True, slots=True)
class ImportServicer(import_service_pb2_grpc.ImportServiceServicer):
    """Fetches files by itself."""

    manage_imports: ManageImports
    page_tokens: PageTokens

    async def CreateImport(self, request: pb.CreateImportRequest, context: Context) -> pb.CreateImportResponse:
        draft = draft_from_proto(request.parent_id, request.source)
        begun = await self.manage_imports.create(calling_user(), calling_token(), draft, request.request_id)
        return pb.CreateImportResponse(data_import=import_to_proto(begun))

    async def GetImport(self, request: pb.GetImportRequest, context: Context) -> pb.GetImportResponse:
        found = await self.manage_imports.get(calling_user(), ImportId(request.import_id))
        return pb.GetImportResponse(data_import=import_to_proto(found))

    async def ListImports(self, request: pb.ListImportsRequest, context: Context) -> pb.ListImportsResponse:
        user, binding = calling_user(), f"imports:{request.parent_id}"
        position = self.page_tokens.decode(request.page_token, caller=user, filter=binding)
        after = None if position is None else (datetime.fromisoformat(str(position[0])), str(position[1]))
        size = page_size(request.page_size, maximum=MAX_PAGE_SIZE)
        found = await self.manage_imports.list_page(user, request.parent_id, after, size + 1)
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = self.page_tokens.encode((last.create_time.isoformat(), last.id), caller=user, filter=binding)
        return pb.ListImportsResponse(imports=[import_to_proto(one) for one in found[:size]], next_page_token=token)

    async def CancelImport(self, request: pb.CancelImportRequest, context: Context) -> pb.CancelImportResponse:
        cancelled = await self.manage_imports.cancel(calling_user(), ImportId(request.import_id))
        return pb.CancelImportResponse(data_import=import_to_proto(cancelled))

    async def WatchImport(
        self, request: pb.WatchImportRequest, context: Context
    ) -> AsyncIterator[pb.WatchImportResponse]:
        async for current in self.manage_imports.watch(calling_user(), ImportId(request.import_id)):
            yield pb.WatchImportResponse(data_import=import_to_proto(current))

    async def ListImportErrors(
        self, request: pb.ListImportErrorsRequest, context: Context
    ) -> pb.ListImportErrorsResponse:
        user, binding = calling_user(), f"import_errors:{request.import_id}"
        position = self.page_tokens.decode(request.page_token, caller=user, filter=binding)
        after = 0 if position is None else int(position[0])
        size = page_size(request.page_size, default=_DEFAULT_ERRORS, maximum=MAX_PAGE_SIZE)
        found = await self.manage_imports.list_failures(user, ImportId(request.import_id), after, size + 1)
        token = ""
        if len(found) > size:
            token = self.page_tokens.encode((found[size - 1][0],), caller=user, filter=binding)
        return pb.ListImportErrorsResponse(
            errors=[failure_to_proto(failure) for _, failure in found[:size]], next_page_token=token
        )
