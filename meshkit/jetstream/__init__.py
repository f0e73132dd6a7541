"""JetStream as a wake-up: work queues that survive restarts, and a connection that never holds a service up."""

from meshkit.jetstream.connection import JetStream, NatsUnavailable, connect
from meshkit.jetstream.work_queue import Delivery, ensure_consumer, ensure_work_queue, publish, pull

__all__ = [
    "Delivery",
    "JetStream",
    "NatsUnavailable",
    "connect",
    "ensure_consumer",
    "ensure_work_queue",
    "publish",
    "pull",
]
