"""The Helm chart: valid with its defaults and with every option on, and true to the services that it runs."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reeltune_cli.app import build_app
from tests.unit.deploy.deployed import (
    CHART,
    COMPOSE,
    DOCKER,
    ROOT,
    SETTINGS,
    faults_of_environment,
    image_targets,
    load_all,
)

ALL_OPTIONS = CHART / "ci" / "all-options-values.yaml"
FOREIGN = {"ScaledObject", "Certificate", "ServiceMonitor"}
"""Kinds of operators, whose schemas are not at hand."""


@pytest.fixture(scope="module")
def helm() -> Path:
    """The program."""
    found = shutil.which("helm")
    if found is None:
        pytest.skip("NOT TESTED: helm is not installed: python tools/install_helm.py")
    return Path(found)


def _run(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": tempfile.gettempdir(), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [str(helm), *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


@functools.cache
def _rendered(helm: Path, values: str) -> list[dict[str, Any]]:
    options = ["--values", values] if values else []
    done = _run(helm, "template", "reeltune", str(CHART), "--namespace", "video", *options)
    assert done.returncode == 0, done.stderr
    return load_all(done.stdout)


@pytest.fixture(params=["", str(ALL_OPTIONS)], ids=["defaults", "every-option"])
def manifests(helm: Path, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return _rendered(helm, request.param)


def _of_kind(manifests: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def _pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"] for each in _of_kind(manifests, "Deployment", "StatefulSet", "Job")]


def _component(thing: dict[str, Any]) -> str:
    return str(thing["metadata"]["labels"]["app.kubernetes.io/component"])


def _selected(manifests: list[dict[str, Any]], selector: dict[str, str]) -> list[dict[str, Any]]:
    return [pod for pod in _pods(manifests) if selector.items() <= pod["metadata"]["labels"].items()]


@pytest.mark.parametrize("values", ["", str(ALL_OPTIONS)])
def test_helm_has_nothing_to_say(helm: Path, values: str) -> None:
    done = _run(helm, "lint", "--strict", str(CHART), *(["--values", values] if values else []))
    assert done.returncode == 0, done.stdout


def test_kubernetes_would_take_it(manifests: list[dict[str, Any]]) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="NOT TESTED: pip install kubernetes-validate"
    )
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_every_option_has_an_effect(helm: Path) -> None:
    kinds = {manifest["kind"] for manifest in _rendered(helm, str(ALL_OPTIONS))}
    assert kinds >= FOREIGN
    assert kinds >= {manifest["kind"] for manifest in _rendered(helm, "")}


def test_a_service_is_given_its_settings_and_no_others(manifests: list[dict[str, Any]], prepared: Path) -> None:
    seen = set()
    for pod in _pods(manifests):
        for container in pod["spec"]["containers"]:
            service = container["args"][0].removesuffix("_svc")
            if service in SETTINGS:
                seen.add(service)
                names = [variable["name"] for variable in container["env"]]
                assert len(names) == len(set(names))
                assert faults_of_environment(service, names, prepared) == []
    assert seen == set(SETTINGS)


def test_a_container_may_do_little(manifests: list[dict[str, Any]]) -> None:
    for pod in _pods(manifests):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]
            writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert "tmp" in writable
            claims = {volume["name"] for volume in spec["volumes"] if "secret" not in volume} | {"data"}
            assert writable <= claims


def test_images_are_ours_and_pinned(manifests: list[dict[str, Any]]) -> None:
    for pod in _pods(manifests):
        for container in pod["spec"]["containers"]:
            name, _, tag = container["image"].rpartition(":")
            assert name.rpartition("/")[2].removeprefix("reeltune-") in image_targets()
            assert tag == "0.1.0"


def test_every_secret_is_one_that_is_prepared_or_asked_for(manifests: list[dict[str, Any]], prepared: Path) -> None:
    made = {f"reeltune-{folder.parent.name}-{folder.name}" for folder in prepared.glob("*/*") if folder.is_dir()}
    made |= {each["spec"]["secretName"] for each in _of_kind(manifests, "Certificate")} | {"video-example-com"}
    for pod in _pods(manifests):
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made
                # The key folder refuses what every account may read.
                assert volume["secret"]["defaultMode"] == 0o440


def test_a_service_leads_to_a_port_that_is_listened_on(manifests: list[dict[str, Any]]) -> None:
    for service in _of_kind(manifests, "Service"):
        pods = _selected(manifests, service["spec"]["selector"])
        assert pods
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in ports
                # Headless: nothing translates one port to another.
                assert service["spec"].get("clusterIP") != "None" or port["port"] == ports[port["targetPort"]]
            if component := _component(pod) if _component(pod) in SETTINGS else None:
                environment = {variable["name"]: variable.get("value") for variable in container["env"]}
                for kind, name in (("grpc", "PORT"), ("metrics", "METRICS_PORT"), ("health", "HEALTH_PORT")):
                    assert str(ports[kind]) == environment[f"{component.upper()}_{name}"]


def test_targets_are_services_and_certificates_hold_for_their_names(
    helm: Path, manifests: list[dict[str, Any]], prepared: Path
) -> None:
    services = {each["metadata"]["name"]: each for each in _of_kind(manifests, "Service")}
    for pod in _pods(manifests):
        for variable in pod["spec"]["containers"][0].get("env", ()):
            if variable["name"].endswith("_TARGET"):
                host, _, port = variable["value"].partition(":")
                assert int(port) in [each["port"] for each in services[host]["spec"]["ports"]]
    for certificate in _of_kind(_rendered(helm, str(ALL_OPTIONS)), "Certificate"):
        part = _component(certificate)
        assert certificate["spec"]["uris"] == [f"spiffe://reeltune/{part}"]
        from reeltune_cli.stack.prepared import Preparation, service_names

        wanted = Preparation(out=prepared, prefix="reeltune-", namespace="video")
        assert tuple(certificate["spec"]["dnsNames"]) == service_names(wanted, part)


def test_the_network_lets_through_the_calls_that_services_admit_and_no_others(manifests: list[dict[str, Any]]) -> None:
    policies = {_component(each): each["spec"] for each in _of_kind(manifests, "NetworkPolicy")}
    assert set(policies) == {*SETTINGS, "edge", "migrations"}
    calls = set()
    for called in SETTINGS:
        (grpc_rule,) = (
            rule for rule in policies[called]["ingress"] if [port["port"] for port in rule["ports"]] == ["grpc"]
        )
        calls |= {
            (peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"], called) for peer in grpc_rule["from"]
        }
    admitted = {
        (caller, service)
        for service in SETTINGS
        for caller in importlib.import_module(f"{service}_svc.rpc.peers").PEERS
    }
    assert calls == admitted
    out = {
        (caller, peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
        for caller, spec in policies.items()
        for rule in spec["egress"]
        for peer in rule.get("to", ())
        if "podSelector" in peer
    }
    # Trainers fetch by presigned addresses, which may lead through the edge.
    assert out == admitted | {("trainer", "edge")}
    servers = {
        (caller, port["port"]) for caller, spec in policies.items() for rule in spec["egress"] for port in rule["ports"]
    }
    every_option = bool(_of_kind(manifests, "ScaledObject"))
    postgres, nats, store, public = (6432, 5222, 443, 9443) if every_option else (5432, 4222, 8333, 443)
    assert {caller for caller, port in servers if port == postgres} == {"auth", "catalog", "scheduler", "migrations"}
    assert {caller for caller, port in servers if port == nats} == {"scheduler", "trainer"}
    assert {caller for caller, port in servers if port == store} >= {"catalog", "scheduler", "edge"}
    assert {caller for caller, port in servers if port == public} >= {"trainer"}
    assert all(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in policies.values())


def test_migrations_are_let_out_before_they_run(manifests: list[dict[str, Any]]) -> None:
    (policy,) = (each for each in _of_kind(manifests, "NetworkPolicy") if _component(each) == "migrations")
    jobs = _of_kind(manifests, "Job")
    assert len(jobs) == 3
    hook = policy["metadata"]["annotations"]
    for job in jobs:
        assert (
            policy["spec"]["podSelector"]["matchLabels"].items()
            <= job["spec"]["template"]["metadata"]["labels"].items()
        )
        annotations = job["metadata"]["annotations"]
        assert hook["helm.sh/hook"] == annotations["helm.sh/hook"]
        assert int(hook["helm.sh/hook-weight"]) < int(annotations.get("helm.sh/hook-weight", "0"))
    # A policy "succeeds" as soon as it is there, and would be gone before the jobs run.
    assert hook["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_a_pod_is_given_the_time_that_its_process_takes_to_stop(manifests: list[dict[str, Any]]) -> None:
    for pod in _pods(manifests):
        (container,) = pod["spec"]["containers"]
        service = container["args"][0].removesuffix("_svc")
        if service not in SETTINGS or len(container["args"]) > 1:
            continue
        given = {each["name"].removeprefix(f"{service.upper()}_"): each.get("value") for each in container["env"]}
        fields = SETTINGS[service].model_fields
        takes = float(given.get("SHUTDOWN_GRACE_SECONDS") or fields["shutdown_grace_seconds"].default) + 9
        if service == "trainer":
            takes += float(given["DRAIN_GRACE_SECONDS"]) + 5
        if hook := container.get("lifecycle"):
            takes += float(hook["preStop"]["exec"]["command"][1])
        assert pod["spec"]["terminationGracePeriodSeconds"] > takes


def test_trainers_are_counted_by_what_runs_and_what_waits(helm: Path) -> None:
    (scaled,) = _of_kind(_rendered(helm, str(ALL_OPTIONS)), "ScaledObject")
    (sets,) = [
        each
        for each in _of_kind(_rendered(helm, str(ALL_OPTIONS)), "StatefulSet")
        if each["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"]
    ]
    assert scaled["spec"]["fallback"] == {"failureThreshold": 4, "replicas": 1, "behavior": "currentReplicasIfHigher"}
    # Two who decide how many there are would undo each other's work.
    assert "replicas" not in sets["spec"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert re.findall(r"reeltune_\w+", query) == ["reeltune_scheduler_queue_depth", "reeltune_scheduler_trainers"]
    # Not by the queue alone: a trainer that has taken the last job must not go.
    assert 'state="busy"' in query
    assert 'device_class="CUDA"' in query


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("publicUrl=http://plain.example.com", "publicUrl"),
        ("image.tag=latest", "tag"),
        ("scheduler.replicas=0", "replicas"),
        ("scheduler.settings.AUTH_PORT=1", "AUTH_PORT"),
        ("auth.settings.AUTH_POSTGRES_DSN=postgresql://u:p@h/d", "AUTH_POSTGRES_DSN"),
        ("nats.url=nats://user:secret@host:4222", "url"),
        ("trainers.cpu.deviceClass=TPU", "deviceClass"),
        ("misspelt=1", "misspelt"),
    ],
)
def test_bad_values_are_refused_by_name(helm: Path, option: str, told: str) -> None:
    done = _run(helm, "template", "reeltune", str(CHART), "--set", option)
    assert done.returncode != 0
    assert told in done.stderr


def test_every_value_is_described() -> None:
    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        inner = {**schema.get("properties", {}), **schema.get("patternProperties", {})}
        return [
            *([] if "description" in schema else [path]),
            *(fault for name, each in inner.items() for fault in undescribed(each, f"{path}.{name}")),
        ]

    assert undescribed(json.loads((CHART / "values.schema.json").read_text()), "values") == []


def test_the_docs_put_every_secret_into_the_cluster(helm: Path) -> None:
    (told,) = re.findall(r"^for folder in (.*); do$", (ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE)
    wanted = {
        volume["secret"]["secretName"]
        for pod in _pods(_rendered(helm, ""))
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    assert {f"reeltune-{folder.replace('/', '-')}" for folder in told.split()} == wanted


def test_options_in_the_docs_are_options_of_the_commands() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"reeltune cluster (prepare|database) +(--[^\n`]*)", text)
    assert {name for name, _ in commands} == {"prepare", "database"}
    for name, arguments in commands:
        shown = CliRunner().invoke(build_app(), ["cluster", name, "--help"], terminal_width=200).output
        for option in re.findall(r"--[a-z][a-z-]+", arguments):
            assert option in shown, (name, option)


def test_one_version_everywhere(helm: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    compose = yaml.safe_load(COMPOSE.read_text())["services"].values()
    assert {part["image"].split(":")[1] for part in compose if part["image"].startswith("reeltune-")} == {version}
    for name in ("Dockerfile", "Dockerfile.jetson"):
        labels = re.findall(r'image\.version="([^"]*)"', (DOCKER / name).read_text())
        assert set(labels) == {version}
