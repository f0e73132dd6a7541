"""How much of its pool a service uses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from meshkit.postgres.pool import Pool


def show_pool(pool: Pool, registry: CollectorRegistry) -> None:
    """Shows the connections of a pool, looked at when somebody asks."""
    connections = Gauge(
        "reeltune_postgres_connections", "Connections of this process to Postgres", ["state"], registry=registry
    )
    connections.labels("idle").set_function(pool.get_idle_size)
    connections.labels("used").set_function(lambda: pool.get_size() - pool.get_idle_size())
    limit = Gauge("reeltune_postgres_connections_limit", "Most connections that it may have", registry=registry)
    limit.set_function(pool.get_max_size)
