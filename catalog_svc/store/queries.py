"""The named queries of this service."""

from __future__ import annotations

import functools

from meshkit.postgres import Queries

SCHEMA = "catalog"
MIGRATIONS = "catalog_svc.sql.migrations"


@functools.cache
def queries() -> Queries:
    """Returns the queries in `sql/queries`, read on first use."""
    return Queries.load("catalog_svc.sql.queries")
