"""The secrets of one mesh, made on the first start."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from reeltune_cli.stack.folder import write_private


class SecretsDamaged(Exception):
    """The file is there and cannot be used."""


def _secret() -> str:
    return secrets.token_urlsafe(24)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class StackSecrets:
    """Every password and key that processes of the mesh share; nothing is guessable and nothing has a default value."""

    superuser_postgres: str = field(default_factory=_secret, repr=False)
    """Of a database in a container; that of `reeltune up` keeps its own."""
    grafana_admin: str = field(default_factory=_secret, repr=False)
    """Of Grafana in a container."""
    auth_postgres: str = field(default_factory=_secret, repr=False)
    catalog_postgres: str = field(default_factory=_secret, repr=False)
    scheduler_postgres: str = field(default_factory=_secret, repr=False)
    auth_page_tokens: str = field(default_factory=_secret, repr=False)
    catalog_page_tokens: str = field(default_factory=_secret, repr=False)
    scheduler_page_tokens: str = field(default_factory=_secret, repr=False)
    scheduler_nats: str = field(default_factory=_secret, repr=False)
    trainer_nats: str = field(default_factory=_secret, repr=False)
    catalog_s3: str = field(default_factory=_secret, repr=False)
    scheduler_s3: str = field(default_factory=_secret, repr=False)
    catalog_storage_key: str = field(default_factory=_fernet_key, repr=False)
    """What users' storage secrets are encrypted with: without it they are lost."""
    join_secret: str = field(default_factory=_secret, repr=False)
    """What a trainer, here or on another machine, proves itself with."""


def load_or_make_secrets(path: Path) -> StackSecrets:
    """Returns the secrets in the file; makes those that are missing and writes them back (mode 0600).

    Raises:
        SecretsDamaged: the file is not what this wrote.
    """
    known: dict[str, str] = {}
    if path.exists():
        try:
            read = json.loads(path.read_text("utf-8"))
            known = {name: str(value) for name, value in read.items() if name in _names()}
        except (ValueError, AttributeError) as error:
            raise SecretsDamaged(
                f"{path} is damaged ({error}); restore it from a backup, or remove it together with the "
                "folder postgres beside it to start anew without the data"
            ) from error
    made = StackSecrets(**known)
    if asdict(made) != known:
        write_private(path, asdict(made))
    return made


def _names() -> set[str]:
    return {item.name for item in fields(StackSecrets)}
