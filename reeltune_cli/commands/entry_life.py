"""What datasets and models have in common after their upload: what uses them, and bringing deleted ones back."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from reeltune.catalog.v1 import dataset_content_pb2, model_service_pb2
from reeltune.catalog.v1.dataset_service_pb2 import ListDatasetsRequest
from reeltune.catalog.v1.model_service_pb2 import ListModelsRequest
from reeltune.scheduler.v1 import training_job_pb2
from reeltune.scheduler.v1 import use_service_pb2 as pb

from reeltune_cli.client import Client, ClientError
from reeltune_cli.commands.dataset_views import DatasetArgument
from reeltune_cli.commands.naming import find_dataset, find_model
from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, count, enum_word, local_time, to_document

DeletedOption = Annotated[bool, typer.Option("--deleted", help="Your own deleted ones as well.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.", show_default=False)]
_ID = re.compile(r"(ds|mdl)_[0-9A-Z]{26}")


async def dataset_uses(cli: Invocation, dataset: DatasetArgument, limit: LimitOption = 50) -> None:
    """List your jobs that use a dataset, newest first."""
    async with cli.client() as client:
        await _show_uses(cli, client, (await find_dataset(client, dataset)).id, limit)


async def model_uses(cli: Invocation, model: ModelArgument, limit: LimitOption = 50) -> None:
    """List your jobs that use a model, newest first."""
    async with cli.client() as client:
        await _show_uses(cli, client, (await find_model(client, model)).id, limit)


async def undelete_dataset(cli: Invocation, dataset: DatasetArgument) -> None:
    """Bring back a dataset that was deleted less than 7 days ago."""
    async with cli.client() as client:
        request = ListDatasetsRequest(show_deleted=True)
        entry_id = await _find_deleted(client.datasets.ListDatasets, request, "datasets", dataset)
        undelete = dataset_content_pb2.UndeleteDatasetRequest(dataset_id=entry_id)
        back = (await client.datasets.UndeleteDataset(undelete)).dataset
        cli.answer({"dataset": to_document(back)}, f"{back.name} ({back.id}) is back")


async def undelete_model(cli: Invocation, model: ModelArgument) -> None:
    """Bring back a model that was deleted less than 7 days ago."""
    async with cli.client() as client:
        request = ListModelsRequest(show_deleted=True)
        entry_id = await _find_deleted(client.models.ListModels, request, "models", model)
        back = (await client.models.UndeleteModel(model_service_pb2.UndeleteModelRequest(model_id=entry_id))).model
        cli.answer({"model": to_document(back)}, f"{back.name} ({back.id}) is back")


async def _find_deleted(ask: Any, request: Any, field: str, named: str) -> str:
    """Returns the id of the deleted entry of this name, the one that was deleted last."""
    if _ID.fullmatch(named):
        return named
    found = [
        entry for entry in await all_pages(ask, request, field) if entry.name == named and entry.HasField("delete_time")
    ]
    if not found:
        noun = field.removesuffix("s")
        remedy = f"see which there are: reeltune {noun} list --deleted"
        raise ClientError(f"there is no deleted {noun} {named!r}", f"{noun.upper()}_NOT_FOUND", remedy)
    return str(max(found, key=lambda entry: entry.delete_time.ToNanoseconds()).id)


async def _show_uses(cli: Invocation, client: Client, entry_id: str, limit: int) -> None:
    first = await client.uses.ListUses(pb.ListUsesRequest(entry_id=entry_id, page_size=1))
    uses = await all_pages(client.uses.ListUses, pb.ListUsesRequest(entry_id=entry_id), "uses", limit)
    others = first.live_jobs_of_others
    rows = [
        (
            use.name,
            use.job_id,
            enum_word(training_job_pb2.JobState, use.state, "JOB_STATE_"),
            local_time(use.create_time),
        )
        for use in uses
    ]
    if others:
        cli.note(f"{count(others, 'job')} of other users that are not final use it as well")
    table = columns(("NAME", "JOB", "STATE", "CREATED"), rows)
    cli.answer({"uses": [to_document(use) for use in uses], "liveJobsOfOthers": others}, table)
