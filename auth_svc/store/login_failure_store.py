"""Failed log-ins by account, in Postgres: they must survive a restart and hold for all replicas together."""

from __future__ import annotations

import hashlib

from auth_svc.domain.throttle import AccountFailures, Admission, ThrottlePolicy, judge_attempt
from auth_svc.store.queries import queries
from meshkit.postgres import Pool, transaction


class LoginFailureStore:
    """Counts failures by what was typed as username, so that unknown names are slowed down like known ones."""

    def __init__(self, pool: Pool, policy: ThrottlePolicy) -> None:
        self._pool = pool
        self._policy = policy

    async def admit(self, name: str) -> Admission:
        """Decides whether a password may be tried for this name, and takes the turn if turns are rare by now."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(queries().lock_login_failures, _digest(name))
            if row is None:
                return Admission(self._policy.delay_after(0))
            admission = judge_attempt(AccountFailures(row["failures"], row["last_time"]), row["now"], self._policy)
            if admission.is_admitted and admission.counts_in_advance:
                await connection.execute(queries().count_login_failure, _digest(name), self._policy.forget_after)
            return admission

    async def count(self, name: str) -> None:
        """Counts a failure."""
        await self._pool.execute(queries().count_login_failure, _digest(name), self._policy.forget_after)

    async def forget(self, name: str) -> None:
        """Clears the name after a right password."""
        await self._pool.execute(queries().forget_login_failures, _digest(name))

    async def delete_old(self) -> None:
        """Deletes failures that no longer count."""
        await self._pool.execute(queries().delete_old_login_failures, self._policy.forget_after)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.casefold().encode()).digest()
