"""Which mesh to speak with, and where this user's files about it are."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reeltune_cli.client.errors import ClientError

ENDPOINT_FILE = "endpoint.json"
_DEFAULT_PORT = 8443


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The door of a mesh."""

    target: str
    """`host:port`."""
    ca_file: Path | None = None
    """PEM of the authority that signed the door's certificate; None for those that the system trusts."""
    plaintext: bool = False
    """Without TLS; only to this machine."""

    @property
    def is_loopback(self) -> bool:
        host = self.target.rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def reeltune_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of this user's Reeltune files: `$REELTUNE_HOME`, else `~/.reeltune`."""
    return Path(environment.get("REELTUNE_HOME") or Path.home() / ".reeltune")


def find_endpoint(
    endpoint: str | None = None, ca_file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Endpoint:
    """Returns the mesh to speak with: the arguments, else `$REELTUNE_ENDPOINT` and `$REELTUNE_CA`, else the mesh
    that `reeltune up` started on this machine.

    `endpoint` is `host:port` or `https://host:port`; `http://` means no TLS and is for this machine only.

    Raises:
        ClientError: there is none, or it cannot be used.
    """
    named = endpoint or environment.get("REELTUNE_ENDPOINT")
    ca = ca_file or (Path(environment["REELTUNE_CA"]) if environment.get("REELTUNE_CA") else None)
    found = _parse(named, ca) if named else _read(reeltune_home(environment) / ENDPOINT_FILE, ca)
    if found.plaintext and not found.is_loopback:
        raise ClientError(
            f"{named} would send passwords unencrypted",
            "ENDPOINT_INVALID",
            "use https://, with --ca for your own authority",
        )
    if found.ca_file is not None and not found.ca_file.is_file():
        raise ClientError(
            f"there is no certificate file {found.ca_file}", "CA_NOT_FOUND", "name the right one with --ca"
        )
    return found


def _parse(named: str, ca_file: Path | None) -> Endpoint:
    scheme, separator, rest = named.partition("://")
    if not separator:
        scheme, rest = "https", named
    target = rest.rstrip("/")
    if scheme not in ("http", "https") or not target or "/" in target:
        raise ClientError(f"{named!r} is not HOST:PORT or https://HOST:PORT", "ENDPOINT_INVALID", "mend --endpoint")
    if not target.rpartition("]")[2].count(":"):
        target = f"{target}:{_DEFAULT_PORT}"
    return Endpoint(target, None if scheme == "http" else ca_file, plaintext=scheme == "http")


def _read(file: Path, ca_file: Path | None) -> Endpoint:
    try:
        document = json.loads(file.read_text("utf-8"))
        return Endpoint(document["target"], ca_file or Path(document["ca_file"]))
    except FileNotFoundError as error:
        raise ClientError(
            "no mesh is known on this machine",
            "ENDPOINT_MISSING",
            "start one: reeltune up; or name one: --endpoint HOST:PORT",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError(f"{file} cannot be read", "ENDPOINT_INVALID", "start the mesh again: reeltune up") from error
