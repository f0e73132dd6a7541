"""A trainer between small real services."""

from __future__ import annotations

from tests.rpc.trainer.fixtures import catalog, mesh, start_trainer, store  # noqa: F401 - fixtures
