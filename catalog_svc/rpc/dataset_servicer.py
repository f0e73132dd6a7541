"""`reeltune.catalog.v1.DatasetService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from reeltune.catalog.v1 import dataset_content_pb2 as content_pb
from reeltune.catalog.v1 import dataset_pb2, dataset_service_pb2_grpc
from reeltune.catalog.v1 import dataset_service_pb2 as pb

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryId, EntryKind
from catalog_svc.domain.export import AnnotationWriter
from catalog_svc.domain.model import Model
from catalog_svc.rpc.caller import Context, calling_token, calling_user, calling_viewer
from catalog_svc.rpc.convert import (
    change_from_proto,
    clip_to_proto,
    dataset_to_proto,
    draft_from_proto,
    format_from_proto,
    issue_to_proto,
    sample_to_proto,
)
from catalog_svc.rpc.list_requests import MAX_PAGE_SIZE, ListEntries, fitting
from catalog_svc.usecases.manage_entries import ManageEntries
from catalog_svc.usecases.read_content import ReadContent
from catalog_svc.usecases.watch_entry import WatchEntry
from meshkit.rpc.failure import invalid_field
from meshkit.rpc.paging import PageTokens, page_size

_KIND = EntryKind.DATASET
_DEFAULT_PAGE_SIZE = 100
_STRETCH_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class DatasetServicer(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Keeps datasets."""

    manage_entries: ManageEntries
    list_entries: ListEntries
    read_content: ReadContent
    watch_entry: WatchEntry
    page_tokens: PageTokens

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> pb.CreateDatasetResponse:
        draft = draft_from_proto(_KIND, request.name, request.description, request.visibility)
        entry = await self.manage_entries.create(calling_user(), draft, request.request_id)
        return pb.CreateDatasetResponse(dataset=dataset_to_proto(Dataset(entry)))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        found = await self.manage_entries.get(_KIND, EntryId(request.dataset_id), calling_viewer(_KIND))
        return pb.GetDatasetResponse(dataset=_to_proto(found))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        page = await self.list_entries.page(_KIND, calling_user(), request, _to_proto)
        return pb.ListDatasetsResponse(datasets=page.messages, next_page_token=page.next_page_token)

    async def UpdateDataset(self, request: pb.UpdateDatasetRequest, context: Context) -> pb.UpdateDatasetResponse:
        change = change_from_proto(request.dataset, request.update_mask, _KIND.noun)
        changed = await self.manage_entries.update(_KIND, EntryId(request.dataset.id), calling_user(), change)
        return pb.UpdateDatasetResponse(dataset=_to_proto(changed))

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        await self.manage_entries.delete(_KIND, EntryId(request.dataset_id), calling_user(), calling_token())
        return pb.DeleteDatasetResponse()

    async def UndeleteDataset(
        self, request: content_pb.UndeleteDatasetRequest, context: Context
    ) -> content_pb.UndeleteDatasetResponse:
        found = await self.manage_entries.undelete(_KIND, EntryId(request.dataset_id), calling_user())
        return content_pb.UndeleteDatasetResponse(dataset=_to_proto(found))

    async def ValidateDataset(self, request: pb.ValidateDatasetRequest, context: Context) -> pb.ValidateDatasetResponse:
        begun = await self.manage_entries.validate(_KIND, EntryId(request.dataset_id), calling_user())
        return pb.ValidateDatasetResponse(dataset=_to_proto(begun))

    async def WatchDataset(
        self, request: pb.WatchDatasetRequest, context: Context
    ) -> AsyncIterator[pb.WatchDatasetResponse]:
        async for current in self.watch_entry.watch(_KIND, EntryId(request.dataset_id), calling_viewer(_KIND)):
            yield pb.WatchDatasetResponse(dataset=_to_proto(current))

    async def ListDatasetIssues(
        self, request: content_pb.ListDatasetIssuesRequest, context: Context
    ) -> content_pb.ListDatasetIssuesResponse:
        viewer = calling_viewer(_KIND)
        binding = f"issues:{request.dataset_id}"
        after = self._after(request.page_token, binding)
        size = page_size(request.page_size, default=_DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        found = await self.read_content.list_issues(EntryId(request.dataset_id), viewer, after, size + 1)
        return content_pb.ListDatasetIssuesResponse(
            issues=[issue_to_proto(issue) for _, issue in found[:size]],
            next_page_token=self._next([position for position, _ in found], size, binding),
        )

    async def ListSamples(
        self, request: content_pb.ListSamplesRequest, context: Context
    ) -> content_pb.ListSamplesResponse:
        for name, value in (("split", request.split), ("tag", request.tag)):
            if "\0" in value:  # none holds it, and Postgres cannot even compare with it
                raise invalid_field(name, "holds a NUL character; remove it")
        viewer = calling_viewer(_KIND)
        binding = f"samples:{request.dataset_id}:{request.split}:{request.tag}"
        after = self._after(request.page_token, binding)
        size = page_size(request.page_size, default=_DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        found, clips = await self.read_content.list_samples(
            EntryId(request.dataset_id), viewer, after, size + 1, request.split, request.tag
        )
        messages = [sample_to_proto(sample) for _, sample in found[:size]]
        count = fitting(messages)
        paths = {video.path for _, sample in found[:count] for video in sample.videos()}
        return content_pb.ListSamplesResponse(
            samples=messages[:count],
            clips=[clip_to_proto(clip) for clip in clips if clip.path in paths],
            next_page_token=self._next([position for position, _ in found], count, binding),
        )

    async def ExportDataset(
        self, request: content_pb.ExportDatasetRequest, context: Context
    ) -> AsyncIterator[content_pb.ExportDatasetResponse]:
        viewer, writer = calling_viewer(_KIND), AnnotationWriter(format_from_proto(request.format))
        texts = self.read_content.export(EntryId(request.dataset_id), viewer, writer)
        file_name = writer.file_name
        async for text in _stretches(texts):
            yield content_pb.ExportDatasetResponse(file_name=file_name, text=text)
            file_name = ""

    def _after(self, token: str, binding: str) -> int:
        position = self.page_tokens.decode(token, caller=calling_user(), filter=binding)
        return 0 if position is None else int(position[0])

    def _next(self, positions: list[int], size: int, binding: str) -> str:
        if len(positions) <= size:
            return ""
        return self.page_tokens.encode((positions[size - 1],), caller=calling_user(), filter=binding)


async def _stretches(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Gathers texts so that a message is worth its while; a single one is always whole."""
    held, size = [], 0
    async for text in texts:
        held.append(text)
        size += len(text)
        if size >= _STRETCH_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _to_proto(found: Dataset | Model) -> dataset_pb2.Dataset:
    return dataset_to_proto(cast(Dataset, found))  # what was asked for by its kind is of that kind
