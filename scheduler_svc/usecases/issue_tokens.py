"""Tokens for trainers: one that lets a worker claim, one that lets it act for a single attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from meshkit.auth.token_kinds import ATTEMPT_GRANT, WORKER_TOKEN
from scheduler_svc.domain.ids import AttemptKey, WorkerId

WORKER_TTL = timedelta(hours=1)
GRANT_TTL = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and when it ends."""

    token: str
    expire_time: datetime


class TokenIssuer:
    """Signs tokens with the scheduler's own key."""

    def __init__(self, private_key_pem: bytes, kid: str) -> None:
        self._workers = WORKER_TOKEN.signer(private_key_pem, kid)
        self._grants = ATTEMPT_GRANT.signer(private_key_pem, kid)

    def worker_token(self, worker_id: WorkerId) -> IssuedToken:
        """Returns the token with which a worker claims jobs."""
        expire_time = datetime.now(UTC) + WORKER_TTL
        return IssuedToken(self._workers.sign(worker_id, WORKER_TTL), expire_time)

    def grant(self, key: AttemptKey, worker_id: WorkerId, *, dataset_id: str, model_id: str) -> IssuedToken:
        """Returns the grant with which one attempt reads its dataset and model and writes its results."""
        claims = {"attempt": key.attempt, "worker": worker_id, "dataset": dataset_id, "model": model_id}
        expire_time = datetime.now(UTC) + GRANT_TTL
        return IssuedToken(self._grants.sign(key.job_id, GRANT_TTL, claims), expire_time)
