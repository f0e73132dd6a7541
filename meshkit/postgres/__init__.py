"""Postgres: one schema and one role per service, forward-only migrations, SQL as named queries."""

from meshkit.postgres.listen import listen
from meshkit.postgres.migrations import MigrationError, migrate
from meshkit.postgres.pool import Connection, Pool, UnsafePostgres, after_commit, open_pool, transaction
from meshkit.postgres.queries import Queries
from meshkit.postgres.trouble import POSTGRES_TROUBLE

__all__ = [
    "POSTGRES_TROUBLE",
    "Connection",
    "MigrationError",
    "Pool",
    "Queries",
    "UnsafePostgres",
    "after_commit",
    "listen",
    "migrate",
    "open_pool",
    "transaction",
]
