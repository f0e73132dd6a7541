"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

FolderArgument = Annotated[
    Path,
    typer.Argument(exists=True, file_okay=False, help="The folder; its files keep their paths.", show_default=False),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Its name; by default the folder's.", show_default=False)
]
DescriptionOption = Annotated[str, typer.Option("--description", help="What it is for.", show_default=False)]
SharedOption = Annotated[bool, typer.Option("--shared", help="Let every signed-in user read it and train from it.")]
FilterOption = Annotated[
    str, typer.Option("--filter", help="For instance: 'state = READY AND name : \"part\"'.", show_default=False)
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
PriorityOption = Annotated[
    int | None,
    typer.Option(min=-100, max=100, help="Goes before your jobs of lower priority, by default 0.", show_default=False),
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most, newest first.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_PAGE_SIZE = 1000


async def all_pages(
    ask: Callable[[Any], Awaitable[Any]], request: Any, field: str, limit: int | None = None
) -> list[Any]:
    """Returns the rows of a list rpc, page after page, up to a limit; the request may ask for pages of its own size."""
    rows: list[Any] = []
    size = request.page_size or _PAGE_SIZE
    while True:
        request.page_size = min(size, limit - len(rows)) if limit else size
        page = await ask(request)
        rows += getattr(page, field)
        if not page.next_page_token or (limit and len(rows) >= limit):
            return rows[:limit]
        request.page_token = page.next_page_token
