"""Rules and dashboards ask for what there is, by rules that Prometheus takes, and say what to do."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import yaml
from google.protobuf.descriptor import MethodDescriptor
from reeltune.access.v1 import access_pb2

from tests.monitoring_files import (
    DASHBOARDS,
    MONITORING,
    OPERATIONS,
    ROOT,
    asked,
    documented,
    expressions,
    is_there,
    panels,
    recorded,
    rules,
)

SLOW_BY_NATURE = {"CompleteUpload", "BatchCreateUploads", "BatchCompleteUploads", "GetSamplePreview"}
"""They read a whole file, a thousand addresses or a clip before they answer."""
SUBMISSIONS = {"CreateTrainingJob", "EvaluateTrainingJob", "MergeTrainingJob"}
CASES = [str(path.relative_to(MONITORING)) for path in sorted(MONITORING.glob("prometheus/tests/*_test.yml"))]
PROMTOOL = shutil.which("promtool")
AMTOOL = shutil.which("amtool")


@pytest.mark.skipif(PROMTOOL is None, reason="NOT TESTED: promtool is not installed: apt-get install prometheus")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus/prometheus.yml"),
        ("check", "rules", "prometheus/rules/recording.yml", "prometheus/rules/alerts.yml"),
        ("test", "rules", *CASES),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_takes_the_files_and_alerts_ring_when_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    AMTOOL is None, reason="NOT TESTED: amtool is not installed: apt-get install prometheus-alertmanager"
)
def test_alertmanager_takes_its_file() -> None:
    command = [str(AMTOOL), "check-config", "alertmanager/alertmanager.yml"]
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_rings_and_one_in_which_it_does_not() -> None:
    rings: dict[bool, set[str]] = {True: set(), False: set()}
    for path in CASES:
        for case in yaml.safe_load((MONITORING / path).read_text())["tests"]:
            for look in case.get("alert_rule_test", ()):
                rings[bool(look["exp_alerts"])].add(look["alertname"])
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts - rings[True] == set(), "never rings in a case"
    assert alerts - rings[False] == set(), "rings in every case"


def test_every_metric_that_is_asked_for_is_in_the_documentation() -> None:
    there = documented()
    missing = [each for each in asked() if not is_there(each, there)]
    assert not missing
    assert len(asked()) > 100


def test_every_metric_is_looked_at_by_somebody() -> None:
    shown = {re.sub(r"_(bucket|count|sum)$", "", each.name) for each in asked()}
    unseen = set(documented()) - shown - {"reeltune_auth_user_changes_total", "reeltune_auth_revoked_sessions"}
    assert {name for name in unseen if "census" not in name} == set(), "no rule and no dashboard asks for them"


def test_every_recording_is_used_and_the_census_is_never_summed_over_replicas() -> None:
    text = "\n".join(expression for _, expression in expressions())
    # The long windows of the objectives are asked for by the dashboard or the alerts.
    assert not [name for name in recorded() if name not in text]
    counted = [
        name for name in documented() if re.match(r"reeltune_(scheduler|catalog)_(jobs|queue|trainers|garbage)", name)
    ]
    for name in counted:
        if not name.endswith(("_total", "_seconds")):
            assert not re.search(rf"sum[^(]*\({name}\b", text), f"{name} is the same at every replica: take its max"


def test_every_alert_says_what_is_wrong_what_users_see_and_where_to_read_on() -> None:
    headings = set(re.findall(r"^### (Reeltune\w+)$", OPERATIONS.read_text("utf-8"), re.MULTILINE))
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == headings
    for rule in alerts:
        told = rule["annotations"]
        assert set(told) == {"summary", "impact", "action", "runbook"}, rule["alert"]
        assert told["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_objectives_cover_the_calls_of_users_and_no_others() -> None:
    management, submit = _selections("management"), _selections("submit")
    for method in _methods():
        path = f"/{method.containing_service.full_name}/{method.name}"
        assert management(path) is _is_management(method), f"objective 1 and {path}"
        assert submit(path) is (method.name in SUBMISSIONS), f"objective 2 and {path}"


def test_dashboards_are_whole() -> None:
    files = sorted(DASHBOARDS.glob("*.json"))
    boards = [json.loads(path.read_text()) for path in files]
    assert len({board["uid"] for board in boards}) == len(files) == 4
    for path in files:
        places: Counter[tuple[int, int]] = Counter()
        own = [panel for name, panel in panels() if name == path.name]
        assert len({panel["id"] for panel in own}) == len(own)
        for panel in own:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            columns = range(place["x"], place["x"] + place["w"])
            places.update(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert max(places.values()) == 1, f"panels of {path.name} lie upon each other"


def test_grafana_is_given_addresses_in_the_one_form_that_it_reads() -> None:
    for path in sorted((MONITORING / "grafana" / "provisioning").rglob("*.yml")):
        # It replaces $NAME and ${NAME}; of a default it would make an empty address, and of all panels blank ones.
        assert not re.search(r"\$\{\w+[^\w}]", path.read_text()), f"{path.name}: Grafana knows no defaults"
    compose = ROOT / "deploy" / "compose" / "compose.yaml"
    grafana = yaml.safe_load(compose.read_text())["services"]["grafana"]
    sources = [each.split(":")[0] for each in grafana["volumes"] if "/provisioning/datasources" in each]
    asked_for = {
        name for path in sources for name in re.findall(r"url: \$(\w+)", (compose.parent / path).read_text("utf-8"))
    }
    assert asked_for == {name for name in grafana["environment"] if name.endswith("_URL")} == {"PROMETHEUS_URL"}


def test_logs_have_few_labels_and_are_read_alike_in_containers() -> None:
    files = [yaml.safe_load(path.read_text()) for path in sorted((MONITORING / "promtail").glob("*.yml"))]
    one, other = (file["scrape_configs"][0]["pipeline_stages"] for file in files)
    assert one == other
    stages = {name: stage for each in one for name, stage in each.items()}
    assert set(stages["labels"]) == {"service", "level"}
    assert set(stages["labels"]) | set(stages["structured_metadata"]) <= set(stages["json"]["expressions"])


def _is_management(method: MethodDescriptor) -> bool:
    callers = set(method.GetOptions().Extensions[access_pb2.callers])
    is_users = callers <= {access_pb2.CALLER_ANYONE, access_pb2.CALLER_USER, access_pb2.CALLER_ADMIN}
    service = method.containing_service.name
    is_between_services = service in ("RevocationService", "AttemptService")
    is_stream = method.server_streaming or method.client_streaming
    return is_users and not (is_stream or is_between_services) and method.name not in SLOW_BY_NATURE | SUBMISSIONS


def _selections(objective: str) -> Callable[[str], bool]:
    """What the recordings of an objective select, one and the same in all windows."""
    wanted, unwanted = set(), set()
    for name, expression in recorded().items():
        if name.startswith(f"reeltune:{objective}"):
            wanted |= set(re.findall(r'rpc=~"([^"]*)"', expression))
            unwanted |= set(re.findall(r'rpc!~"([^"]*)"', expression))
    (pattern,) = wanted
    avoided = unwanted.pop() if unwanted else r"(?!)"
    assert not unwanted
    return lambda path: bool(re.fullmatch(pattern, path)) and not re.fullmatch(avoided, path)


def _methods() -> Iterator[MethodDescriptor]:
    generated = ROOT / "gen" / "python"
    for path in sorted(generated.glob("reeltune/*/v1/*_service_pb2.py")):
        module = importlib.import_module(".".join(path.relative_to(generated).with_suffix("").parts))
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods
