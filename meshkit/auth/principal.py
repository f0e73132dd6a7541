"""The verified caller of the current rpc."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

ADMIN_ROLE = "admin"


class Caller(enum.IntEnum):
    """Kinds of caller; names and numbers are those of the proto enum `reeltune.access.v1.Caller`."""

    ANYONE = 1
    USER = 2
    ADMIN = 3
    WORKER = 4
    ATTEMPT = 5
    SERVICE = 6


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller."""

    kind: Caller
    """USER, WORKER, ATTEMPT or SERVICE; ANYONE without a credential. Never ADMIN: that is a user with a role."""
    subject: str
    """The token's `sub`; empty for ANYONE."""
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    """The credential itself, so that a service can call another one on the caller's behalf."""

    @property
    def is_admin(self) -> bool:
        return self.kind is Caller.USER and ADMIN_ROLE in self.roles

    def is_admitted_by(self, callers: frozenset[Caller]) -> bool:
        """Tells whether an rpc that admits `callers` admits this principal."""
        if Caller.ANYONE in callers or self.kind in callers:
            return True
        return Caller.ADMIN in callers and self.is_admin


ANONYMOUS = Principal(kind=Caller.ANYONE, subject="")

_current: ContextVar[Principal] = ContextVar("meshkit_principal")


def current_principal() -> Principal:
    """Returns the caller of the rpc being served.

    Raises:
        RuntimeError: called outside an rpc, where nobody has been authenticated.
    """
    principal = _current.get(None)
    if principal is None:
        raise RuntimeError(
            "no principal here: current_principal() works only inside an rpc handler of a meshkit server"
        )
    return principal


def set_current_principal(principal: Principal) -> None:
    """Binds the caller to the current context; each rpc runs in its own, so nothing has to be reset."""
    _current.set(principal)
