"""What makes a request known when it comes again."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from scheduler_svc.domain.ids import UserId


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request that its client may repeat; two are the same only when all of this is."""

    caller_id: UserId
    """The request ids of different users have nothing to do with each other."""
    request_id: UUID
    """Chosen by the client."""
    rpc: str
    """Name of the method, such as `StopTrainingJob`."""
    body_sha256: str
    """Digest of everything else that was asked."""
