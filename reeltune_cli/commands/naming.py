"""Datasets, models and users by name or id: people remember names."""

from __future__ import annotations

import re
from typing import Any

from reeltune.auth.v1.user_service_pb2 import GetMeRequest, ListUsersRequest
from reeltune.catalog.v1 import dataset_pb2, model_pb2
from reeltune.catalog.v1.dataset_service_pb2 import GetDatasetRequest, ListDatasetsRequest
from reeltune.catalog.v1.model_service_pb2 import GetModelRequest, ListModelsRequest

from reeltune_cli.client import Client, ClientError
from reeltune_cli.commands.options import all_pages

_DATASET_ID = re.compile(r"ds_[0-9A-Z]{26}")
_MODEL_ID = re.compile(r"mdl_[0-9A-Z]{26}")
_USER_ID = re.compile(r"usr_[0-9A-Z]{26}|default")


async def find_dataset(client: Client, named: str) -> dataset_pb2.Dataset:
    """Returns the dataset with this id or name: the newest version, or the one that `name@version` names.

    Raises:
        ClientError: there is none, or several of this name are visible.
    """
    if _DATASET_ID.fullmatch(named):
        return (await client.datasets.GetDataset(GetDatasetRequest(dataset_id=named))).dataset
    found: dataset_pb2.Dataset = await _only(client, "dataset", named, await _versions(client, named))
    return found


async def _versions(client: Client, named: str) -> list[dataset_pb2.Dataset]:
    """Returns, by owner, the version that is meant."""
    found = await all_pages(client.datasets.ListDatasets, ListDatasetsRequest(filter=_has_name(named)), "datasets")
    name, at, number = named.rpartition("@")
    if not found and at and number.isdecimal():
        request = ListDatasetsRequest(filter=_has_name(name))
        everything = await all_pages(client.datasets.ListDatasets, request, "datasets")
        return [dataset for dataset in everything if dataset.version == int(number)]
    newest: dict[str, dataset_pb2.Dataset] = {}
    for dataset in found:
        if dataset.owner_id not in newest or dataset.version > newest[dataset.owner_id].version:
            newest[dataset.owner_id] = dataset
    return list(newest.values())


async def find_model(client: Client, named: str) -> model_pb2.Model:
    """Returns the model with this id or name; otherwise like `find_dataset`."""
    if _MODEL_ID.fullmatch(named):
        return (await client.models.GetModel(GetModelRequest(model_id=named))).model
    answer = await client.models.ListModels(ListModelsRequest(filter=_has_name(named)))
    found: model_pb2.Model = await _only(client, "model", named, list(answer.models))
    return found


async def find_user_id(client: Client, named: str) -> str:
    """Returns the id of the user with this username; only admins can look one up. An id, or `default`, is one already.

    Raises:
        ClientError: there is none.
    """
    if _USER_ID.fullmatch(named):
        return named
    request = ListUsersRequest(filter=_text("username", ":", named))
    users = await all_pages(client.users.ListUsers, request, "users")
    for user in users:
        if user.username == named:
            return str(user.id)
    raise ClientError(f"there is no user {named!r}", "USER_NOT_FOUND", "check the username, or give the user's id")


def _has_name(name: str) -> str:
    return _text("name", "=", name)


def _text(field: str, operator: str, text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{field} {operator} "{escaped}"'


async def _only(client: Client, noun: str, name: str, found: list[Any]) -> Any:
    if not found:
        raise ClientError(
            f"there is no {noun} {name!r}", f"{noun.upper()}_NOT_FOUND", f"see which there are: reeltune {noun} list"
        )
    if len(found) > 1:
        # Names are unique among one owner's; one's own come before what others share.
        me = (await client.users.GetMe(GetMeRequest())).user.id
        found = [resource for resource in found if resource.owner_id == me] or found
    if len(found) > 1:
        ids = ", ".join(resource.id for resource in found[:5])
        raise ClientError(f"several {noun}s are named {name!r}: {ids}", "NAME_AMBIGUOUS", "name it by its id")
    return found[0]
