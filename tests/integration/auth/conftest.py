from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from auth_svc.domain.session import SessionLimits
from auth_svc.domain.throttle import ThrottlePolicy
from auth_svc.domain.user import User, UserId
from auth_svc.store.login_failure_store import LoginFailureStore
from auth_svc.store.session_store import SessionStore
from auth_svc.store.user_store import UserStore
from meshkit.ids import new_id
from meshkit.postgres import Pool, open_pool
from meshkit.testing import Database, DatabaseSpec


@pytest.fixture(scope="session")
def database_spec() -> DatabaseSpec:
    return DatabaseSpec("auth", "auth_svc.sql.migrations")


@pytest_asyncio.fixture(loop_scope="session")
async def pool(database: Database) -> AsyncIterator[Pool]:
    pool = await open_pool(database.dsn, database.schema, max_size=20)
    yield pool
    await pool.close()


@pytest.fixture
def users(pool: Pool) -> UserStore:
    return UserStore(pool)


@pytest.fixture
def limits() -> SessionLimits:
    return SessionLimits(
        refresh_ttl=timedelta(days=30), session_ttl=timedelta(days=90), replay_window=timedelta(seconds=20)
    )


@pytest.fixture
def sessions(pool: Pool, limits: SessionLimits) -> SessionStore:
    return SessionStore(pool, limits)


@pytest.fixture
def throttle_policy() -> ThrottlePolicy:
    return ThrottlePolicy(
        free_failures=3,
        first_delay=timedelta(seconds=30),
        max_delay=timedelta(seconds=60),
        forget_after=timedelta(hours=1),
    )


@pytest.fixture
def failures(pool: Pool, throttle_policy: ThrottlePolicy) -> LoginFailureStore:
    return LoginFailureStore(pool, throttle_policy)


@pytest_asyncio.fixture(loop_scope="session")
async def ada(users: UserStore) -> User:
    return await users.add(UserId(new_id("usr")), "Ada", "ada@example.org", "hash-of-ada")
