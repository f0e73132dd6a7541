"""What the operator does from the command line, with the service running or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from auth_svc.domain.errors import UserNotFound
from auth_svc.settings import AuthSettings
from auth_svc.store.key_folder import KeyFolder, KeyFolderError
from auth_svc.store.queries import MIGRATIONS, SCHEMA
from auth_svc.store.user_store import UserStore
from meshkit.postgres import migrate, open_pool
from meshkit.telemetry.logging import configure_logging


class OperatorError(Exception):
    """The command cannot be done; the text says why and what to do."""


async def grant_admin(settings: AuthSettings, username: str) -> str:
    """Makes a user an admin and returns a line that says so.

    Raises:
        OperatorError: there is no such user.
    """
    configure_logging("auth", settings.log_format, "warning")
    dsn = settings.postgres_dsn.get_secret_value()
    await migrate(dsn, SCHEMA, MIGRATIONS)
    pool = await open_pool(dsn, SCHEMA, max_size=1)
    try:
        user_id = await UserStore(pool).grant_admin(username)
    except UserNotFound as error:
        raise OperatorError(f"no user {username!r}: sign up first, then grant") from error
    finally:
        await pool.close()
    structlog.get_logger().warning("audit.admin_granted", user_id=user_id, by="operator")
    return f"{username} ({user_id}) is an admin; their next access token says so"


def rotate_key(settings: AuthSettings, *, force: bool) -> str:
    """Makes a new signing key and returns a line that says when it signs.

    Raises:
        OperatorError: tokens of the key that would be dropped may still be in use.
    """
    folder = KeyFolder(settings.keys_dir)
    now = datetime.now(UTC)
    try:
        newest = folder.ensure_keys()[0]
        # Until then the predecessor may have signed tokens that are still good, and it is the one to be dropped.
        over_at = newest.create_time + timedelta(
            seconds=settings.key_activation_seconds + settings.access_token_seconds
        )
        if now < over_at and len(folder.load_keys()) > 1 and not force:
            raise OperatorError(
                f"the last rotation is over at {over_at:%Y-%m-%d %H:%M:%S} UTC; wait, or --force to sign some users out"
            )
        key = folder.rotate(now)
    except KeyFolderError as error:
        raise OperatorError(str(error)) from error
    return f"new signing key {key.kid}: published now, signs in {settings.key_activation_seconds:.0f} s"
