"""JetStream as a wake-up: work queues that survive restarts, and a connection that never holds a service up."""

from meshkit.jetstream.connection import JetStream, NatsUnavailable, connect
from meshkit.jetstream.work_queue import (
    Delivery,
    Message,
    ensure_consumer,
    ensure_work_queue,
    publish,
    publish_all,
    pull,
)

__all__ = [
    "Delivery",
    "JetStream",
    "Message",
    "NatsUnavailable",
    "connect",
    "ensure_consumer",
    "ensure_work_queue",
    "publish",
    "publish_all",
    "pull",
]
