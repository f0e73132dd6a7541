"""A client of a Reeltune mesh: channel, sign-in, uploads, downloads, watches; for commands, demo and benchmarks.

async with Client(find_endpoint()) as client:
    await client.session.log_in("ada", password)
    jobs = await client.training.ListTrainingJobs(ListTrainingJobsRequest())
"""

from reeltune_cli.client.connection import Client
from reeltune_cli.client.credentials import Credentials, FileCredentials, MemoryCredentials
from reeltune_cli.client.endpoint import Endpoint, find_endpoint, reeltune_home
from reeltune_cli.client.errors import ClientError

__all__ = [
    "Client",
    "ClientError",
    "Credentials",
    "Endpoint",
    "FileCredentials",
    "MemoryCredentials",
    "find_endpoint",
    "reeltune_home",
]
