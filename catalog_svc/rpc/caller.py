"""Who calls, in this service's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from catalog_svc.domain.entry import EntryKind, Viewer
from meshkit.auth.principal import Caller, current_principal

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext

_GRANT_CLAIMS = {EntryKind.DATASET: "dataset", EntryKind.MODEL: "model"}


def calling_user() -> str:
    """Returns the id of the signed-in user who calls."""
    return current_principal().subject


def calling_token() -> str:
    """Returns the caller's own token, with which other services are asked on their behalf."""
    return current_principal().token


def calling_viewer(kind: EntryKind) -> Viewer:
    """Returns who wants to read: a user, or an attempt, which sees the one entry of that kind that its grant names."""
    principal = current_principal()
    if principal.kind is Caller.ATTEMPT:
        return Viewer(granted_id=str(principal.claims.get(_GRANT_CLAIMS[kind], "")))
    return Viewer(user_id=principal.subject)
