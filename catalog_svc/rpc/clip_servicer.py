"""`reeltune.catalog.v1.ClipService`."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.catalog.v1 import clip_service_pb2 as pb
from reeltune.catalog.v1 import clip_service_pb2_grpc

from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.rpc.caller import Context, calling_user, calling_viewer
from catalog_svc.rpc.convert import shown_clip_to_proto
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE, fitting
from catalog_svc.usecases.show_clips import ShowClips
from meshkit.rpc.paging import PageTokens, page_size

_DEFAULT_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class ClipServicer(clip_service_pb2_grpc.ClipServiceServicer):
    """Shows clips."""

    show_clips: ShowClips
    page_tokens: PageTokens

    async def ListClips(self, request: pb.ListClipsRequest, context: Context) -> pb.ListClipsResponse:
        binding = f"clips:{request.dataset_id}"
        position = self.page_tokens.decode(request.page_token, caller=calling_user(), filter=binding)
        after = "" if position is None else str(position[0])
        size = page_size(request.page_size, default=_DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        viewer = calling_viewer(EntryKind.DATASET)
        found = await self.show_clips.list_page(EntryId(request.dataset_id), viewer, after, size + 1)
        messages = [shown_clip_to_proto(shown) for shown in found[:size]]
        count = fitting(messages)
        token = ""
        if len(found) > count:
            token = self.page_tokens.encode((messages[count - 1].path,), caller=calling_user(), filter=binding)
        return pb.ListClipsResponse(clips=messages[:count], next_page_token=token)

    async def GetClip(self, request: pb.GetClipRequest, context: Context) -> pb.GetClipResponse:
        viewer = calling_viewer(EntryKind.DATASET)
        shown = await self.show_clips.get(EntryId(request.dataset_id), viewer, request.path)
        return pb.GetClipResponse(clip=shown_clip_to_proto(shown))
