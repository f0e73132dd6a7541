"""Migrations: each service's are numbered without a gap and without two of one number."""

from __future__ import annotations

import pytest

from meshkit.postgres.migrations import load_migrations


@pytest.mark.parametrize("service", ["auth_svc", "catalog_svc", "scheduler_svc"])
def test_the_numbers_of_migrations_follow_one_another(service: str) -> None:
    numbers = [migration.number for migration in load_migrations(f"{service}.sql.migrations")]
    assert numbers == list(range(1, len(numbers) + 1))
