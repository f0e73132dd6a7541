"""The servers of the mesh as child processes on one machine, from their pip-installed binaries.

Used by tests and by `reeltune up`. Every server listens on loopback, keeps everything in one data folder, is ready
when `start()` returns, and ends with its parent.
"""

from meshkit.embedded.envoy import EnvoyServer
from meshkit.embedded.nats import NatsServer, NatsUser
from meshkit.embedded.ports import free_port, free_ports
from meshkit.embedded.postgres import PostgresServer
from meshkit.embedded.process import ServerNotReady
from meshkit.embedded.seaweed import S3Identity, S3Server

__all__ = [
    "EnvoyServer",
    "NatsServer",
    "NatsUser",
    "PostgresServer",
    "S3Identity",
    "S3Server",
    "ServerNotReady",
    "free_port",
    "free_ports",
]
