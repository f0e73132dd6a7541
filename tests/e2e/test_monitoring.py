"""A mesh that has done something shows it: metrics as they are documented, and a line for each significant event."""

from __future__ import annotations

import json
from typing import Any

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from meshkit.testing import assert_eventually
from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.e2e.trained_job import STEPS, TrainedJob
from tests.monitoring_files import asked_of_the_edge, documented

_COMMON = ("process_", "python_")


async def test_every_metric_that_is_shown_is_documented_and_the_other_way_round(
    stack: RunningMesh, trained: TrainedJob
) -> None:
    # What is counted of the database is there from the first round on.
    shown: dict[str, frozenset[str]] = await assert_eventually(lambda: _all_shown(stack))
    assert "job_id" not in {label for labels in shown.values() for label in labels}


async def test_the_edge_tells_prometheus_how_it_is_too(stack: RunningMesh) -> None:
    (edge,) = [target for target in _targets(stack) if target["labels"]["service"] == "edge"]
    # An empty value is none to Prometheus: it would ask for all that Envoy can count.
    assert edge["labels"]["__param_usedonly"] == "true"
    told = await _scrape(edge)
    missing = {name for name in asked_of_the_edge() if f"\n{name}{{" not in told}
    assert asked_of_the_edge()
    assert not missing


async def test_a_trained_job_is_counted_from_its_upload_to_its_end(stack: RunningMesh, trained: TrainedJob) -> None:
    values = {name: sample for name, sample in (await _values(stack)).items() if sample}
    for name, least in {
        "reeltune_auth_sign_ups_total": 1,
        "reeltune_catalog_uploads_opened_total": len(trained.material.clips),
        "reeltune_catalog_validations_total": 2,
        "reeltune_scheduler_jobs_submitted_total": 1,
        "reeltune_scheduler_job_changes_total": 3,
        "reeltune_scheduler_queue_wait_seconds_count": 1,
        "reeltune_scheduler_attempts_ended_total": 1,
        "reeltune_trainer_steps_total": STEPS,
        "reeltune_trainer_tokens_total": STEPS,
        "reeltune_trainer_step_seconds_total": 0,
        "reeltune_trainer_children_started_total": 1,
    }.items():
        assert values.get(name, 0) >= least, name


async def test_logs_tell_who_did_what_and_how_a_job_fared(stack: RunningMesh, trained: TrainedJob) -> None:
    user = trained.owner.user
    answer = await stack.http.post("/v1/auth/login", json={"username": user.username, "password": PASSWORD + "x"})
    assert answer.status_code == 401

    def about_user() -> bool:
        lines = [line for line in _lines(stack, "auth") if line.get("user_id") == user.user_id]
        found = {(line["event"], line.get("result")) for line in lines}
        return {("audit.sign_up", None), ("audit.log_in", "ok"), ("audit.log_in", "refused")} <= found

    await assert_eventually(about_user)
    lines = [line for line in _lines(stack, "scheduler") if line.get("job_id") == trained.id]
    (submitted,) = [line for line in lines if line["event"] == "audit.job_submitted"]
    assert submitted["actor"] == user.user_id
    assert submitted["request_id"]
    changes = [line for line in lines if line["event"] == "job.state_changed"]
    assert [line["to_state"] for line in changes] == ["STARTING", "RUNNING", "COMPLETED"]
    assert {line["attempt"] for line in changes} == {1}
    events = {(line["event"], line.get("attempt")) for line in _lines(stack, "trainer") if _is_of(line, trained)}
    assert {("job.claimed", 1), ("child.started", 1), ("attempt.ended", 1)} <= events
    stored = [line for line in _lines(stack, "catalog") if line["event"] == "audit.dataset_file_stored"]
    assert trained.dataset.id in {line["resource"] for line in stored}


def _is_of(line: dict[str, Any], job: TrainedJob) -> bool:
    return bool(line.get("job_id") == job.id)


def _lines(stack: RunningMesh, name: str) -> list[dict[str, Any]]:
    """Every line of a log; each is JSON with these fields, or the test fails."""
    lines = [json.loads(line) for line in stack.log(name).splitlines()]
    assert all({"timestamp", "level", "service", "event"} <= line.keys() for line in lines)
    return lines


def _targets(stack: RunningMesh) -> list[dict[str, Any]]:
    targets: list[dict[str, Any]] = json.loads((stack.data / "metrics" / "targets.json").read_text())
    return targets


async def _scrape(target: dict[str, Any]) -> str:
    (address,) = target["targets"]
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.get(f"http://{address}{target['labels'].get('__metrics_path__', '/metrics')}")
    assert answer.status_code == 200
    return answer.text


async def _families(stack: RunningMesh) -> list[Metric]:
    found: list[Metric] = []
    for target in _targets(stack):
        if target["labels"]["service"] != "edge":
            found += text_string_to_metric_families(await _scrape(target))
    return [family for family in found if not family.name.startswith(_COMMON)]


async def _all_shown(stack: RunningMesh) -> dict[str, frozenset[str]]:
    """Every metric with the labels that its samples have; one that has none yet has no labels here."""
    there = documented()
    shown: dict[str, set[str]] = {}
    for family in await _families(stack):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown.setdefault(name, set()).update(label for sample in family.samples for label in sample.labels)
    assert shown.keys() == there.keys(), f"differ: {sorted(shown.keys() ^ there.keys())}"
    for name, labels in shown.items():
        assert labels - {"le"} in (set(), there[name]), name
    return {name: frozenset(labels) for name, labels in shown.items()}


async def _values(stack: RunningMesh) -> dict[str, float]:
    """The samples of all services by name, summed over their labels."""
    sums: dict[str, float] = {}
    for family in await _families(stack):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums
