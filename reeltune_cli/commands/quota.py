"""`reeltune quota show|list|set|reset`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.scheduler.v1 import quota_pb2
from reeltune.scheduler.v1 import quota_service_pb2 as pb
from rich.table import Table

from reeltune_cli.amounts import NO_LIMIT, read_count, read_hours, read_size
from reeltune_cli.client import ClientError
from reeltune_cli.commands.naming import find_user_id
from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, facts, local_time, size, to_document

_EtagOption = Annotated[
    str, typer.Option("--etag", help="Refuse if it is not the current one of `quota show`.", show_default=False)
]
_WHO = "Whose: username or id, or `default` for everybody without a quota of their own."


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    commands = typer.Typer(help="How much each user may have.", no_args_is_help=True)
    add_command(commands, "show", show)
    add_command(commands, "list", list_all)
    add_command(commands, "set", set_limits)
    add_command(commands, "reset", reset)
    app.add_typer(commands, name="quota")


async def show(
    cli: Invocation,
    user: Annotated[str | None, typer.Argument(help=f"{_WHO} Yours if left out.", show_default=False)] = None,
) -> None:
    """Show limits and what counts against them; other users' to admins only."""
    async with cli.client() as client:
        if user is None:
            quota = (await client.quotas.GetMyQuota(pb.GetMyQuotaRequest())).quota
        else:
            request = pb.GetQuotaRequest(user_id=await find_user_id(client, user))
            quota = (await client.quotas.GetQuota(request)).quota
        cli.answer({"quota": to_document(quota)}, _facts(quota))


async def list_all(cli: Invocation, limit: LimitOption = 1000) -> None:
    """List the quotas that were set; admins only."""
    async with cli.client() as client:
        found = await all_pages(client.quotas.ListQuotas, pb.ListQuotasRequest(), "quotas", limit)
        rows = [
            (quota.user_id, *(text for _, text in _limits(quota)), local_time(quota.update_time)) for quota in found
        ]
        table = columns(("USER", "RUNNING", "QUEUED", "DEVICE HOURS", "STORAGE", "CHANGED"), rows)
        cli.answer({"quotas": [to_document(quota) for quota in found]}, table)


def _limit_option(name: str, help_text: str) -> Any:
    return typer.Option(name, help=f"{help_text}, or `{NO_LIMIT}`.", show_default=False)


async def set_limits(
    cli: Invocation,
    user: Annotated[str, typer.Argument(help=_WHO, show_default=False)],
    running_jobs: Annotated[str | None, _limit_option("--running-jobs", "Jobs that trainers have")] = None,
    queued_jobs: Annotated[str | None, _limit_option("--queued-jobs", "Jobs that wait")] = None,
    device_hours: Annotated[str | None, _limit_option("--device-hours", "Device hours within 24 hours")] = None,
    storage: Annotated[str | None, _limit_option("--storage", "Artifacts and checkpoints, such as 200GB")] = None,
    etag: _EtagOption = "",
) -> None:
    """Set limits; those that are not named stay as they are. Admins only."""
    given: dict[str, tuple[str | None, Callable[[str], float]]] = {
        "running_jobs": (running_jobs, read_count),
        "queued_jobs": (queued_jobs, read_count),
        "device_hours_per_day": (device_hours, read_hours),
        "storage_bytes": (storage, read_size),
    }
    named = {name: (text, read) for name, (text, read) in given.items() if text is not None}
    if not named:
        raise ClientError("there is nothing to set", "NOTHING_TO_CHANGE", "give --running-jobs or another limit")
    async with cli.client() as client:
        quota = quota_pb2.Quota(user_id=await find_user_id(client, user), etag=etag)
        for name, (text, read) in named.items():
            if text != NO_LIMIT:
                setattr(quota, name, read(text))
        request = pb.UpdateQuotaRequest(
            quota=quota, update_mask=FieldMask(paths=list(named)), request_id=str(uuid.uuid4())
        )
        updated = (await client.quotas.UpdateQuota(request)).quota
        cli.answer({"quota": to_document(updated)}, _facts(updated))


async def reset(
    cli: Invocation, user: Annotated[str, typer.Argument(help=_WHO, show_default=False)], etag: _EtagOption = ""
) -> None:
    """Take a user's own limits away: those of `default` hold again. Admins only."""
    async with cli.client() as client:
        request = pb.DeleteQuotaRequest(
            user_id=await find_user_id(client, user), etag=etag, request_id=str(uuid.uuid4())
        )
        quota = (await client.quotas.DeleteQuota(request)).quota
        cli.answer({"quota": to_document(quota)}, _facts(quota))


def _limits(quota: quota_pb2.Quota) -> list[tuple[str, str]]:
    return [
        ("running jobs", str(quota.running_jobs) if quota.HasField("running_jobs") else NO_LIMIT),
        ("queued jobs", str(quota.queued_jobs) if quota.HasField("queued_jobs") else NO_LIMIT),
        (
            "device hours in 24 h",
            f"{quota.device_hours_per_day:g}" if quota.HasField("device_hours_per_day") else NO_LIMIT,
        ),
        ("storage", size(quota.storage_bytes) if quota.HasField("storage_bytes") else NO_LIMIT),
    ]


def _facts(quota: quota_pb2.Quota) -> Table:
    limits = _limits(quota)
    if quota.HasField("usage"):
        usage = quota.usage
        used = (
            str(usage.running_jobs),
            str(usage.queued_jobs),
            f"{usage.device_hours:.1f}",
            size(usage.storage_bytes),
        )
        limits = [(name, f"{now} of {text}") for (name, text), now in zip(limits, used, strict=True)]
    return facts(
        [
            ("user", f"{quota.user_id}{' (the default holds)' if quota.is_default else ''}"),
            *limits,
            ("device hours again", local_time(quota.usage.device_hours_free_time)),
            ("etag", quota.etag),
            ("changed", local_time(quota.update_time)),
        ]
    )
