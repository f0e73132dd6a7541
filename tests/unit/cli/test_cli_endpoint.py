from __future__ import annotations

import json
from pathlib import Path

import pytest

from reeltune_cli.client import ClientError, Endpoint, find_endpoint, reeltune_home


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    file = tmp_path / "ca.crt"
    file.write_text("a certificate")
    return file


@pytest.mark.parametrize(
    ("named", "target", "plaintext"),
    [
        ("mesh.example.org:9000", "mesh.example.org:9000", False),
        ("mesh.example.org", "mesh.example.org:8443", False),
        ("https://mesh.example.org/", "mesh.example.org:8443", False),
        ("[::1]:9000", "[::1]:9000", False),
        ("[::1]", "[::1]:8443", False),
        ("http://127.0.0.1:50051", "127.0.0.1:50051", True),
        ("http://localhost:50051", "localhost:50051", True),
    ],
)
def test_reads_named_endpoints(named: str, target: str, plaintext: bool) -> None:
    found = find_endpoint(named, environment={})
    assert (found.target, found.plaintext, found.ca_file) == (target, plaintext, None)


@pytest.mark.parametrize(
    "named", ["ftp://x:1", "https://", "host:1/path", "http://mesh.example.org:1", "http://10.0.0.1:1"]
)
def test_refuses_impossible_and_unsafe_endpoints(named: str) -> None:
    with pytest.raises(ClientError) as caught:
        find_endpoint(named, environment={})
    assert caught.value.reason == "ENDPOINT_INVALID"
    assert caught.value.next_step


def test_arguments_come_before_the_environment_and_that_before_the_file(tmp_path: Path, ca_file: Path) -> None:
    document = {"target": "127.0.0.1:8443", "ca_file": str(ca_file)}
    (tmp_path / "endpoint.json").write_text(json.dumps(document))
    home = {"REELTUNE_HOME": str(tmp_path)}
    assert find_endpoint(environment=home) == Endpoint("127.0.0.1:8443", ca_file)
    named = {**home, "REELTUNE_ENDPOINT": "env.example.org:1", "REELTUNE_CA": str(ca_file)}
    assert find_endpoint(environment=named) == Endpoint("env.example.org:1", ca_file)
    assert find_endpoint("arg.example.org:2", environment=named).target == "arg.example.org:2"


def test_says_what_to_do_without_a_mesh(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        find_endpoint(environment={"REELTUNE_HOME": str(tmp_path)})
    assert caught.value.reason == "ENDPOINT_MISSING"
    assert "reeltune up" in caught.value.next_step


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"target": 1}', "not json"])
def test_a_broken_endpoint_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoint.json").write_text(content)
    with pytest.raises(ClientError, match=r"endpoint\.json"):
        find_endpoint(environment={"REELTUNE_HOME": str(tmp_path)})


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no certificate file"):
        find_endpoint("host:1", tmp_path / "absent.crt", environment={})


def test_the_home_is_in_the_users_folder_unless_set() -> None:
    assert reeltune_home({}) == Path.home() / ".reeltune"
    assert reeltune_home({"REELTUNE_HOME": "/elsewhere"}) == Path("/elsewhere")
