"""What a mesh of containers needs before its first start, as files: secrets, keys, certificates, servers' users.

One folder for each part of the mesh, so that a container is given its own and nothing else's:

    PART/settings/   a file for each secret setting, named as its environment variable in lower case
    PART/keys/       the keys that auth and scheduler sign with, for all their replicas
    PART/tls/        tls.crt, tls.key, ca.crt: who the part is to the others
    edge/public/     tls.crt, tls.key, ca.crt: who the edge is to clients
    postgres/, grafana/     the password of the superuser, and of Grafana's admin
    nats/, s3/       the configuration of the servers of one machine
    authority/       the private authority, secrets.json, options.json: what all else is made from; keep it, to yourself
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from meshkit.embedded.nats import nats_config
from meshkit.embedded.seaweed import identities_config
from reeltune_cli.stack.certificates import (
    DEFAULT_NAMES,
    ensure_certificates,
    ensure_service_certificate,
    is_of_another_authority,
)
from reeltune_cli.stack.environment import SCHEMAS
from reeltune_cli.stack.secrets_file import StackSecrets, load_or_make_secrets
from reeltune_cli.stack.server_access import nats_users, s3_identities

PARTS = ("auth", "catalog", "scheduler", "trainer", "edge")
AUTHORITY = "authority"
NATS_PORT, NATS_MONITOR_PORT = 4222, 8222
_SIGNERS = ("auth", "scheduler")
_NATS_STORE = Path("/data/jetstream")
_PRIVATE, _SHARED = 0o600, 0o444


@dataclass(frozen=True, slots=True)
class Preparation:
    """Where the files go, and the names that the mesh will be found by."""

    out: Path
    postgres: str = "postgres:5432"
    database: str = "reeltune"
    postgres_options: str = ""
    """End of the connection strings: `?sslmode=verify-full&sslrootcert=…`, a path where the services run."""
    prefix: str = ""
    """Of the services' names: `reeltune-` where the scheduler is found at `reeltune-scheduler`."""
    namespace: str = ""
    """Of Kubernetes, where there is one: certificates then hold for `NAME.NAMESPACE.svc` as well."""
    edge_names: tuple[str, ...] = DEFAULT_NAMES


def prepare(wanted: Preparation, former: Preparation | None = None) -> None:
    """Makes what is missing, and certificates anew that soon run out.

    A setting that is there stays as it is: an address may be changed in its file. The configuration of the servers of
    one machine follows the settings and this release's permissions. Done again with the same folder it changes nothing
    else. `former` is what the folder was prepared with before: where the database was elsewhere then, connection
    strings are written anew.

    Raises:
        SecretsDamaged: `authority/secrets.json` cannot be read.
        ValueError: the authority's files are damaged, or a connection string that would change was edited by hand.
        OSError: the folder cannot be written.
        subprocess.CalledProcessError: a service could not make its keys; it has said why.
    """
    authority = wanted.out / AUTHORITY
    authority.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets = load_or_make_secrets(authority / "secrets.json")
    moved = _moved_connections(wanted, former, secrets) if former else {}
    for path, dsn in moved.items():
        _write(path, dsn)
    for part, settings in _settings(wanted, secrets).items():
        for name, value in settings.items():
            _write_new(_setting(wanted, part, name), value)
    for part in _SIGNERS:
        _make_keys(part, wanted.out / part / "keys")
    _write_servers(wanted, secrets)
    _certify(wanted, authority)


def _dsn(wanted: Preparation, secrets: StackSecrets, name: str) -> str:
    password = getattr(secrets, f"{name}_postgres")
    return f"postgresql://{name}:{password}@{wanted.postgres}/{wanted.database}{wanted.postgres_options}"


def _moved_connections(wanted: Preparation, former: Preparation, secrets: StackSecrets) -> dict[Path, str]:
    """Returns the connection strings that are to be others than before, by their files."""
    moved = {}
    for name in SCHEMAS:
        path = _setting(wanted, name, "postgres_dsn")
        before, now = _dsn(former, secrets, name), _dsn(wanted, secrets, name)
        if before == now or not path.exists():
            continue
        if path.read_text("utf-8").strip() not in (before, now):
            raise ValueError(f"{path} was edited by hand: edit it again, or remove it to have it made anew")
        moved[path] = now
    return moved


def _setting(wanted: Preparation, part: str, name: str) -> Path:
    return wanted.out / part / "settings" / f"{part}_{name}"


def _settings(wanted: Preparation, secrets: StackSecrets) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {
        name: {
            "postgres_dsn": _dsn(wanted, secrets, name),
            "page_token_secret": getattr(secrets, f"{name}_page_tokens"),
        }
        for name in SCHEMAS
    }
    for identity in s3_identities(secrets):
        found[identity.access_key] |= {"s3_access_key": identity.access_key, "s3_secret_key": identity.secret_key}
    found["catalog"]["storage_key"] = secrets.catalog_storage_key
    found["trainer"] = {}
    for user in nats_users(secrets):
        found[user.name] |= {
            "nats_user": user.name,
            "nats_password": user.password,
            "join_secret": secrets.join_secret,
        }
    return found


def _make_keys(part: str, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", f"{part}_svc", "make-keys", str(folder)], check=True)


def _write_servers(wanted: Preparation, secrets: StackSecrets) -> None:
    # The official images' users are not ours: they read these files, and no other container is given the folders.
    _write_new(wanted.out / "postgres" / "password", secrets.superuser_postgres, mode=_SHARED)
    _write_new(wanted.out / "grafana" / "password", secrets.grafana_admin, mode=_SHARED)
    # Written each time: a release may give its users other permissions, and an operator other passwords.
    nats = nats_config(
        [
            replace(user, password=_setting(wanted, user.name, "nats_password").read_text("utf-8").strip())
            for user in nats_users(secrets)
        ],
        listen=f"0.0.0.0:{NATS_PORT}",
        monitor=f"0.0.0.0:{NATS_MONITOR_PORT}",
        store_dir=_NATS_STORE,
    )
    _write(wanted.out / "nats" / "nats.json", json.dumps(nats, indent=1))
    identities = identities_config(
        [
            replace(
                identity,
                access_key=_setting(wanted, identity.access_key, "s3_access_key").read_text("utf-8").strip(),
                secret_key=_setting(wanted, identity.access_key, "s3_secret_key").read_text("utf-8").strip(),
            )
            for identity in s3_identities(secrets)
        ]
    )
    _write(wanted.out / "s3" / "identities.json", json.dumps(identities, indent=1))


def _certify(wanted: Preparation, authority: Path) -> None:
    public = ensure_certificates(authority, wanted.edge_names)
    shown = wanted.out / "edge" / "public"
    if not is_of_another_authority(shown / "tls.crt", authority):
        for source, name in ((public.certificate, "tls.crt"), (public.key, "tls.key"), (public.ca, "ca.crt")):
            _write(shown / name, source.read_text("utf-8"))
    for part in PARTS:
        ensure_service_certificate(authority, wanted.out / part / "tls", part, service_names(wanted, part))


def service_names(wanted: Preparation, part: str) -> tuple[str, ...]:
    """Returns the names that others find a part by, and that its certificate therefore holds for."""
    name = f"{wanted.prefix}{part}"
    if not wanted.namespace:
        return (name,)
    return (
        name,
        f"{name}.{wanted.namespace}",
        f"{name}.{wanted.namespace}.svc",
        f"{name}.{wanted.namespace}.svc.cluster.local",
    )


def _write_new(path: Path, content: str, *, mode: int = _PRIVATE) -> None:
    if not path.exists():
        _write(path, content, mode=mode)


def _write(path: Path, content: str, *, mode: int = _PRIVATE) -> None:
    """Writes a file whole or not at all, with its mode from the first byte."""
    path.parent.mkdir(mode=0o755 if mode == _SHARED else 0o700, parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.building")
    building.unlink(missing_ok=True)
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    building.replace(path)
