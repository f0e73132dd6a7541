"""What can go wrong, in the words of this service; `rpc/error_table.py` says how a client hears of it."""

from __future__ import annotations

from datetime import timedelta


class AuthError(Exception):
    """Base of the errors of this service."""


class InvalidField(AuthError):
    """A value that the contract admits and a rule of this service does not."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class UsernameTaken(AuthError):
    """Somebody has this username, in whatever case."""


class EmailTaken(AuthError):
    """Somebody has this e-mail address, in whatever case."""


class CredentialsInvalid(AuthError):
    """Unknown user or wrong password: which of the two is not to be told."""


class LoginThrottled(AuthError):
    """Too many failures, of this account or from this address."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__(f"retry after {retry_after.total_seconds():.1f} s")
        self.retry_after = retry_after


class PasswordQueueFull(AuthError):
    """So many passwords wait to be hashed that another one would wait too long."""


class UserDisabled(AuthError):
    """The password is right, and an admin has barred the user."""


class RefreshTokenInvalid(AuthError):
    """Unknown, expired, re-used, or of a session that has ended."""


class SessionEnded(AuthError):
    """The access token is sound, and its session has ended or its user is barred."""


class RoleRequired(AuthError):
    """The user no longer holds the role that the token was issued with."""


class UserNotFound(AuthError):
    """No user has this id or name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class EtagMismatch(AuthError):
    """Somebody changed the user in the meantime."""

    def __init__(self, user_id: str) -> None:
        super().__init__(user_id)
        self.user_id = user_id


class LastAdmin(AuthError):
    """After this change nobody could manage users."""

    def __init__(self, user_id: str) -> None:
        super().__init__(user_id)
        self.user_id = user_id
