"""Deletes what has had its time."""

from __future__ import annotations

import asyncio

import structlog

from auth_svc.store.login_failure_store import LoginFailureStore
from auth_svc.store.session_store import SessionStore

_INTERVAL_SECONDS = 600
_RETRY_SECONDS = 30


async def sweep_for_ever(sessions: SessionStore, failures: LoginFailureStore) -> None:
    """Deletes old sessions and login failures every ten minutes; tries again sooner when the database is away."""
    while True:
        try:
            await sessions.delete_old()
            await failures.delete_old()
        except Exception:  # whatever the database's trouble is, it is no reason to stop signing people in
            structlog.get_logger().exception("sweep.failed")
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            await asyncio.sleep(_INTERVAL_SECONDS)
