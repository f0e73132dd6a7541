"""What the list requests of datasets and models have in common: filter, page token, page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from google.protobuf.message import Message

from catalog_svc.domain.dataset import Dataset
from catalog_svc.domain.entry import EntryKind, EntryState, Visibility
from catalog_svc.domain.model import Model
from catalog_svc.store.entry_store import EntryQuery
from catalog_svc.usecases.manage_entries import ManageEntries
from meshkit.rpc.filtering import Choice, Comparison, FieldKind, Identifier, Operator, Text, parse_filter
from meshkit.rpc.paging import PageTokens, page_size

MAX_PAGE_SIZE = 1000
MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early rather than coming near the limit of a message."""

_FIELDS: dict[str, FieldKind] = {
    "name": Text(),
    "state": Choice.of(EntryState),
    "visibility": Choice.of(Visibility),
    "owner_id": Identifier(),
}


@dataclass(frozen=True, slots=True)
class EntryPage:
    """One page, and the token of the next one (empty on the last)."""

    messages: Sequence[Any]
    next_page_token: str


class ListRequest(Protocol):
    """ListDatasetsRequest and ListModelsRequest."""

    page_size: int
    page_token: str
    filter: str
    show_deleted: bool


@dataclass(frozen=True, slots=True)
class ListEntries:
    """Answers list requests."""

    manage_entries: ManageEntries
    page_tokens: PageTokens

    async def page(
        self,
        kind: EntryKind,
        user_id: str,
        request: ListRequest,
        to_proto: Callable[[Dataset | Model], Message],
    ) -> EntryPage:
        """Returns a page; raises FilterError, or Failure for a bad token."""
        filter_text = request.filter
        # The kind is bound too: a token of ListDatasets is none of ListModels.
        query, binding = query_from_filter(filter_text), f"{kind}:{request.show_deleted}:{filter_text}"
        query = replace(query, show_deleted=request.show_deleted)
        position = self.page_tokens.decode(request.page_token, caller=user_id, filter=binding)
        after = None if position is None else (datetime.fromisoformat(str(position[0])), str(position[1]))
        wanted = page_size(request.page_size, maximum=MAX_PAGE_SIZE)
        # One more than asked for tells whether there is a next page.
        found = await self.manage_entries.list_page(kind, user_id, query, after, wanted + 1)
        messages = [to_proto(entry) for entry in found[:wanted]]
        count = fitting(messages)
        next_token = ""
        if len(found) > count:
            last = found[count - 1].entry
            next_position = (last.create_time.isoformat(), last.id)
            next_token = self.page_tokens.encode(next_position, caller=user_id, filter=binding)
        return EntryPage(messages[:count], next_token)


def fitting(messages: Sequence[Message]) -> int:
    """Returns how many of these messages make a page: at least one, if there is one."""
    size = 0
    for count, message in enumerate(messages):
        size += message.ByteSize()
        if size > MAX_PAGE_BYTES and count:
            return count
    return len(messages)


def query_from_filter(text: str) -> EntryQuery:
    """Reads a filter; raises FilterError."""
    comparisons = parse_filter(text, _FIELDS)
    names = [comparison for comparison in comparisons if comparison.field == "name"]
    owners = [comparison for comparison in comparisons if comparison.field == "owner_id"]
    return EntryQuery(
        name_like=[_pattern(name) for name in names if name.operator is not Operator.DIFFERS],
        name_unlike=[_pattern(name) for name in names if name.operator is Operator.DIFFERS],
        states=[state for state in EntryState if _admits(comparisons, "state", state)],
        visibilities=[visibility for visibility in Visibility if _admits(comparisons, "visibility", visibility)],
        owner_ids=[str(owner.value) for owner in owners if owner.operator is Operator.EQUALS],
        other_owner_ids=[str(owner.value) for owner in owners if owner.operator is Operator.DIFFERS],
    )


def _pattern(comparison: Comparison) -> str:
    text = str(comparison.value).lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{text}%" if comparison.operator is Operator.HAS else text


def _admits(comparisons: Sequence[Comparison], field: str, value: str) -> bool:
    return all(
        (comparison.value == value) is (comparison.operator is Operator.EQUALS)
        for comparison in comparisons
        if comparison.field == field
    )
