"""`reeltune.catalog.v1.ModelService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from reeltune.catalog.v1 import model_pb2, model_service_pb2_grpc
from reeltune.catalog.v1 import model_service_pb2 as pb

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.model import Model
from catalog_svc.rpc.caller import Context, calling_token, calling_user, calling_viewer
from catalog_svc.rpc.convert import change_from_proto, draft_from_proto, model_to_proto
from catalog_svc.rpc.list_requests import ListEntries
from catalog_svc.usecases.manage_entries import ManageEntries
from catalog_svc.usecases.watch_entry import WatchEntry

_KIND = EntryKind.MODEL


@dataclass(frozen=True, slots=True)
class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Keeps base models."""

    manage_entries: ManageEntries
    list_entries: ListEntries
    watch_entry: WatchEntry

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.CreateModelResponse:
        draft = draft_from_proto(_KIND, request.name, request.description, request.visibility)
        entry = await self.manage_entries.create(calling_user(), draft, request.request_id)
        return pb.CreateModelResponse(model=model_to_proto(Model(entry)))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        found = await self.manage_entries.get(_KIND, EntryId(request.model_id), calling_viewer(_KIND))
        return pb.GetModelResponse(model=_to_proto(found))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        page = await self.list_entries.page(_KIND, calling_user(), request, _to_proto)
        return pb.ListModelsResponse(models=page.messages, next_page_token=page.next_page_token)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        change = change_from_proto(request.model, request.update_mask, _KIND.noun)
        changed = await self.manage_entries.update(_KIND, EntryId(request.model.id), calling_user(), change)
        return pb.UpdateModelResponse(model=_to_proto(changed))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        await self.manage_entries.delete(_KIND, EntryId(request.model_id), calling_user(), calling_token())
        return pb.DeleteModelResponse()

    async def UndeleteModel(self, request: pb.UndeleteModelRequest, context: Context) -> pb.UndeleteModelResponse:
        found = await self.manage_entries.undelete(_KIND, EntryId(request.model_id), calling_user())
        return pb.UndeleteModelResponse(model=_to_proto(found))

    async def ValidateModel(self, request: pb.ValidateModelRequest, context: Context) -> pb.ValidateModelResponse:
        begun = await self.manage_entries.validate(_KIND, EntryId(request.model_id), calling_user())
        return pb.ValidateModelResponse(model=_to_proto(begun))

    async def WatchModel(self, request: pb.WatchModelRequest, context: Context) -> AsyncIterator[pb.WatchModelResponse]:
        async for current in self.watch_entry.watch(_KIND, EntryId(request.model_id), calling_viewer(_KIND)):
            yield pb.WatchModelResponse(model=_to_proto(current))


def _to_proto(found: Dataset | Model) -> model_pb2.Model:
    return model_to_proto(cast(Model, found))  # what was asked for by its kind is of that kind
