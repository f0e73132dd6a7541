"""The data folder, its secrets and its ports."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from cryptography import x509

from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.folder import FolderBusy, open_folder
from reeltune_cli.stack.options import external_nats, external_s3
from reeltune_cli.stack.ports import PortInUse, assign_ports
from reeltune_cli.stack.secrets_file import SecretsDamaged, load_or_make_secrets


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    with open_folder(tmp_path / "data") as folder:
        assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
        with pytest.raises(FolderBusy, match="--data"), open_folder(tmp_path / "data"):
            pass
    with open_folder(tmp_path / "data"):
        pass


def test_secrets_are_made_once_all_different_and_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"

    made, again = load_or_make_secrets(path), load_or_make_secrets(path)

    assert made == again
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = [getattr(made, name) for name in made.__slots__]
    assert len(set(values)) == len(values)
    assert min(map(len, values)) >= 32
    assert values[0] not in repr(made)


def test_a_secret_that_a_newer_version_needs_is_added(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    made = load_or_make_secrets(path)
    path.write_text(path.read_text().replace('"join_secret"', '"formerly"'))

    again = load_or_make_secrets(path)

    assert again.auth_postgres == made.auth_postgres
    assert again.join_secret != made.join_secret


@pytest.mark.parametrize("content", ["", "{", "[]", "5"])
def test_damaged_secrets_are_told_and_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(content)

    with pytest.raises(SecretsDamaged, match="is damaged"):
        load_or_make_secrets(path)
    assert path.read_text() == content


def test_ports_are_remembered_and_only_the_edges_is_insisted_on(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = assign_ports(path, ("auth", "nats"), edge=0, default_edge=8443)

    assert len(set(first.values())) == 3
    assert assign_ports(path, ("auth", "nats"), edge=None, default_edge=8443) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["auth"]))
        taken.listen()
        moved = assign_ports(path, ("auth", "nats"), edge=None, default_edge=8443)
    assert moved["auth"] != first["auth"]
    assert (moved["nats"], moved["edge"]) == (first["nats"], first["edge"])

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["edge"]))
        taken.listen()
        with pytest.raises(PortInUse, match=f"{first['edge']} is already used by .*--port"):
            assign_ports(path, ("auth", "nats"), edge=None, default_edge=8443)


@pytest.mark.parametrize("content", ['{"edge": 99999, "auth": -1}', '{"edge": 0}', "[]", "{", '{"auth": "x"}'])
def test_damaged_ports_are_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ports.json"
    path.write_text(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        default = int(free.getsockname()[1])

    chosen = assign_ports(path, ("auth",), edge=None, default_edge=default)

    assert chosen["edge"] == default
    assert 0 < chosen["auth"] < 65536


@pytest.mark.parametrize("name", ["edge.pem", "edge.key"])
def test_a_damaged_server_certificate_is_replaced(tmp_path: Path, name: str) -> None:
    made = ensure_certificates(tmp_path)
    authority = made.ca.read_bytes()
    (tmp_path / name).write_bytes(b"")

    again = ensure_certificates(tmp_path)

    x509.load_pem_x509_certificate(again.certificate.read_bytes()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(authority)
    )
    assert b"PRIVATE KEY" in again.key.read_bytes()
    assert again.ca.read_bytes() == authority


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_a_damaged_authority_is_told_and_never_replaced(tmp_path: Path, name: str) -> None:
    ensure_certificates(tmp_path)
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(ValueError, match=rf"{name}.* damaged; restore"):
        ensure_certificates(tmp_path)
    assert (tmp_path / name).read_bytes() == b""


def test_an_external_nats_is_read_from_its_url() -> None:
    external = external_nats("nats://ada:p%40ss@nats.example:4223")

    assert (external.url, external.user, external.password) == ("nats://nats.example:4223", "ada", "p@ss")
    with pytest.raises(ValueError, match="user:password") as caught:
        external_nats("http://ada:hidden@nats.example")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["s3.example:9000", "http://s3.example", "ftp://s3.example:21"])
def test_an_external_store_needs_a_whole_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        external_s3(endpoint, "key", "secret", "bucket")
