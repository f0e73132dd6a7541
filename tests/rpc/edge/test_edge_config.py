"""The rendered configuration: Envoy takes it, no service is forgotten, and only what is declared public is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2

from meshkit.embedded.envoy import validate_envoy_config
from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.edge import EdgeSettings, Endpoint, render_edge
from reeltune_cli.stack.edge_contract import EXPOSED_SERVICES, HIDDEN_SERVICES, descriptor_set, exposed_rpcs
from tests.contract_services import contract_services

ONE = (Endpoint("127.0.0.1", 9),)


def all_service_names() -> set[str]:
    return {service.full_name for service in contract_services()}


def rendered(folder: Path, **upstreams: tuple[Endpoint, ...]) -> Path:
    certificates = ensure_certificates(folder / "certificates")
    return render_edge(
        EdgeSettings(
            port=0,
            certificate=certificates.certificate,
            key=certificates.key,
            upstreams=upstreams,
            access_log=folder / 'with "quotes" and spaces.log',
        ),
        folder,
    )


@pytest.mark.parametrize("trainers", [(), ONE, (*ONE, Endpoint("trainer-2.example", 9))], ids=["none", "one", "two"])
def test_envoy_accepts_the_configuration(tmp_path: Path, trainers: tuple[Endpoint, ...]) -> None:
    config = rendered(tmp_path, auth=ONE, catalog=ONE, scheduler=ONE, trainer=trainers, s3=ONE)

    validate_envoy_config(config)


def test_every_service_of_the_contracts_is_either_exposed_or_hidden() -> None:
    exposed = {name for names in EXPOSED_SERVICES.values() for name in names}

    assert exposed | HIDDEN_SERVICES == all_service_names()
    assert not exposed & HIDDEN_SERVICES


def test_only_rpcs_that_admit_anyone_need_no_token() -> None:
    public = {rpc.full_name for rpc in exposed_rpcs() if rpc.is_public}

    assert public == {
        f"reeltune.auth.v1.AuthService.{name}" for name in ("SignUp", "Login", "RefreshSession", "GetJwks")
    }


def test_the_last_token_rule_needs_a_token_for_everything(tmp_path: Path) -> None:
    config = yaml.safe_load(rendered(tmp_path, auth=ONE, s3=ONE).read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    jwt = next(f for f in manager["http_filters"] if f["name"].endswith("jwt_authn"))["typed_config"]
    public, last = jwt["rules"]

    assert last == {"match": {"prefix": "/"}, "requires": {"provider_name": "reeltune"}}
    for rpc in exposed_rpcs():
        is_matched = re.fullmatch(public["match"]["safe_regex"]["regex"], rpc.path) is not None
        assert is_matched == rpc.is_public, rpc.full_name


def test_only_routes_that_reach_no_service_skip_the_token(tmp_path: Path) -> None:
    config = yaml.safe_load(rendered(tmp_path, auth=ONE, s3=ONE).read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]

    skipping = {r["name"] for r in routes if "envoy.filters.http.jwt_authn" in r.get("typed_per_filter_config", {})}

    assert skipping == {"s3", "s3-put", "preflight", "unknown"}
    assert routes[-1]["name"] == "unknown"


def test_only_the_keeper_of_sessions_gets_their_cookie(tmp_path: Path) -> None:
    config = yaml.safe_load(rendered(tmp_path, auth=ONE, s3=ONE).read_text())
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    keeps: dict[str, set[bool]] = {}
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        if "cluster" in route.get("route", {}):
            is_removed = route.get("request_headers_to_remove") == ["cookie"]
            keeps.setdefault(route["route"]["cluster"], set()).add(not is_removed)

    assert keeps.pop("none") == {True}, "preflights reach nobody"
    assert keeps.pop("auth") == {True}
    assert keeps == {name: {False} for name in ("catalog", "scheduler", "trainer", "s3")}


def test_the_descriptor_set_can_print_error_details_and_names_every_field_in_json() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set())
    seen: set[str] = set()
    for file in files.file:
        assert set(file.dependency) <= seen, f"{file.name} comes before what it imports"
        seen.add(file.name)

    assert "google/rpc/error_details.proto" in seen
    assert all(field.json_name for file in files.file for message in file.message_type for field in message.field)
