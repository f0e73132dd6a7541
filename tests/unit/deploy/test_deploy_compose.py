"""The compose file: valid, and such that no part is given more than it needs."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.deployed import COMPOSE, ROOT, SETTINGS, faults_of_environment, image_targets

FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
PARTS: dict[str, dict[str, Any]] = FILE["services"]


def test_it_is_a_compose_file() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="NOT TESTED: pip install compose-spec")
    for path in (COMPOSE, COMPOSE.with_name("gpu.yaml")):
        # As `docker compose config` shows it: variables put in, aliases written out.
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).validate()


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_is_given_its_settings_and_no_others(service: str, prepared: Path) -> None:
    assert faults_of_environment(service, PARTS[service]["environment"], prepared) == []


@pytest.mark.parametrize("part", PARTS)
def test_a_container_may_do_little(part: str) -> None:
    container = PARTS[part]
    assert container["user"].split(":")[0] not in ("0", "root")
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory"} <= set(container["deploy"]["resources"]["limits"])
    assert "privileged" not in container
    assert not any("docker.sock" in volume for volume in container["volumes"])


def test_without_a_word_of_the_operator_nothing_listens_but_on_loopback() -> None:
    assert {part: container["ports"] for part, container in PARTS.items() if "ports" in container} == {
        "edge": ["${REELTUNE_ADDRESS:-127.0.0.1}:8443:8443"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_prometheus_looks_where_metrics_are() -> None:
    targets = json.loads(COMPOSE.with_name("targets.json").read_text())
    found = {each["labels"]["service"]: each["targets"] for each in targets}
    expected = {}
    for service in SETTINGS:
        environment = PARTS[service]["environment"]
        # Who shares the edge's network is found by the edge's name.
        host = "edge" if "network_mode" in PARTS[service] else service
        expected[service] = [f"{host}:{environment[f'{service.upper()}_METRICS_PORT']}"]
        assert environment[f"{service.upper()}_HOST"] == "0.0.0.0"
    assert found == {**expected, "edge": ["edge:9090"]}
    assert "--metrics-port=9090" in PARTS["edge"]["command"]


@pytest.mark.parametrize("part", PARTS)
def test_an_image_is_one_of_ours_or_pinned(part: str) -> None:
    name, _, tag = PARTS[part]["image"].partition(":")
    assert tag not in ("", "latest")
    if name.startswith("reeltune-"):
        assert name.removeprefix("reeltune-") in image_targets()
    if "build" in PARTS[part]:
        build = PARTS[part]["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert f"reeltune-{build['target']}" == name


def test_every_image_of_ours_is_built() -> None:
    assert {part["image"] for part in PARTS.values() if part["image"].startswith("reeltune-")} == {
        part["image"] for part in PARTS.values() if "build" in part
    }


def test_what_is_prepared_for_a_part_is_given_to_it_alone() -> None:
    holders: dict[str, set[str]] = {}
    for part, container in PARTS.items():
        for volume in container["volumes"]:
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source
                assert rest.endswith(":ro"), volume
                continue
            assert source in FILE["volumes"], source
            if source.startswith("prepared-"):
                holders.setdefault(source.removeprefix("prepared-"), set()).add(part)
                assert part == "prepare" or rest.endswith(":ro"), volume
    # Who makes the roles reads each service's own password.
    allowed = {"prepare", "database"}
    assert {name: parts - allowed for name, parts in holders.items()} == {name: {name} for name in holders}
    assert {part for part, container in PARTS.items() if "authority:/prepared/authority" in container["volumes"]} == {
        "prepare"
    }


def test_everything_prepared_has_a_volume(prepared: Path) -> None:
    targets = {volume.split(":")[1] for volume in PARTS["prepare"]["volumes"]}
    assert targets == {f"/prepared/{folder.name}" for folder in prepared.iterdir()}


def _networks(part: str) -> set[str]:
    mode = PARTS[part].get("network_mode", "")
    return _networks(mode.removeprefix("service:")) if mode.startswith("service:") else set(PARTS[part]["networks"])


@pytest.mark.parametrize("service", ["auth", "catalog", "scheduler"])
def test_who_may_call_a_service_is_in_its_network(service: str) -> None:
    for caller in importlib.import_module(f"{service}_svc.rpc.peers").PEERS:
        assert _networks(caller) & _networks(service), (caller, service)


def test_servers_are_reached_by_those_who_need_them() -> None:
    def beside(server: str) -> set[str]:
        return {part for part in PARTS if part not in (server, "prepare") and _networks(part) & _networks(server)}

    assert beside("postgres") == {"database", "auth", "catalog", "scheduler"}
    # The trainer has the edge's network, and with it what the edge needs.
    assert beside("nats") == {"scheduler", "edge", "trainer"}
    assert beside("store") == {"catalog", "scheduler", "edge", "trainer"}
    assert [name for name, network in FILE["networks"].items() if not network.get("internal")] == ["internet"]


def test_targets_are_where_services_listen() -> None:
    for service in SETTINGS:
        for name, value in PARTS[service]["environment"].items():
            if name.endswith("_TARGET"):
                host, _, port = value.partition(":")
                assert PARTS[host]["environment"][f"{host.upper()}_PORT"] == port, name
    upstreams = dict(
        argument.removeprefix("--upstream=").split("=")
        for argument in PARTS["edge"]["command"]
        if argument.startswith("--upstream=")
    )
    for name, target in upstreams.items():
        if name != "s3":
            assert target.endswith(":" + PARTS[name]["environment"][f"{name.upper()}_PORT"])
    # It shares the edge's network: no two ports may be the same.
    trainer = PARTS["trainer"]["environment"]
    ports = [trainer[f"TRAINER_{kind}"] for kind in ("PORT", "METRICS_PORT", "HEALTH_PORT")]
    assert len({*ports, "8443", "9090"}) == 5


def test_a_trainer_has_time_to_give_its_job_back() -> None:
    fields = SETTINGS["trainer"].model_fields
    needed = fields["drain_grace_seconds"].default + fields["shutdown_grace_seconds"].default
    assert int(PARTS["trainer"]["stop_grace_period"].removesuffix("s")) > needed + 9
