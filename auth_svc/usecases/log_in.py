"""Signs a user in by password."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from auth_svc import metrics
from auth_svc.domain.errors import CredentialsInvalid, LoginThrottled, UserDisabled
from auth_svc.store.login_failure_store import LoginFailureStore
from auth_svc.store.user_store import Credentials, UserStore
from auth_svc.usecases.address_limiter import AddressLimiter
from auth_svc.usecases.open_session import OpenSession, SignedIn
from auth_svc.usecases.password_hasher import PasswordHasher


@dataclass(frozen=True, slots=True)
class LogIn:
    """Signs users in. Live sessions never pass here: whoever floods an account cannot end one."""

    users: UserStore
    failures: LoginFailureStore
    addresses: AddressLimiter
    hasher: PasswordHasher
    open_session: OpenSession

    async def __call__(self, name: str, password: str, address: str) -> SignedIn:
        """Opens a session for the user with this username or e-mail address.

        Raises:
            LoginThrottled: too many failures of the account or from the address.
            CredentialsInvalid: unknown user or wrong password, told alike after the same work.
            UserDisabled: the password is right and the user barred.
            PasswordQueueFull: too many passwords wait to be verified.
        """
        try:
            self.addresses.take(address)
        except LoginThrottled:
            _audit("throttled", address)
            raise
        admission = await self.failures.admit(name)
        if not admission.is_admitted:
            _audit("throttled", address)
            raise LoginThrottled(admission.retry_after)
        credentials = await self.users.find_credentials(name)
        is_right = await self.hasher.verify(credentials.password_hash if credentials else None, password)
        if credentials is None or not is_right:
            if not admission.counts_in_advance:
                await self.failures.count(name)
            _audit("refused", address, credentials)
            raise CredentialsInvalid
        self.addresses.give_back(address)
        await self.failures.forget(name)
        return await self._open(credentials, password, address)

    async def _open(self, credentials: Credentials, password: str, address: str) -> SignedIn:
        user = credentials.user
        if user.disabled:
            _audit("disabled", address, credentials)
            raise UserDisabled
        if self.hasher.needs_rehash(credentials.password_hash):
            new_hash = await self.hasher.hash(password)
            await self.users.upgrade_password_hash(user.id, credentials.password_hash, new_hash)
        signed_in = await self.open_session(user.id, address)
        _audit("ok", address, credentials, session_id=signed_in.session_id)
        return signed_in


def _audit(result: str, address: str, credentials: Credentials | None = None, **fields: str) -> None:
    """Records a log-in; the typed name only where it is a user's, for people type passwords into the wrong field."""
    if credentials is not None:
        fields["user_id"] = credentials.user.id
    metrics.LOG_INS.labels(result).inc()
    structlog.get_logger().info("audit.log_in", result=result, address=address, **fields)
