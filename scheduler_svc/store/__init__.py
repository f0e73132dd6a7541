"""The only place with SQL."""

from meshkit.postgres import Queries

QUERIES = "scheduler_svc.sql.queries"
MIGRATIONS = "scheduler_svc.sql.migrations"
SCHEMA = "scheduler"


def load_queries() -> Queries:
    """Returns the scheduler's named queries."""
    return Queries.load(QUERIES)
