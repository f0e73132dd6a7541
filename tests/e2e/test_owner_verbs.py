"""What owners do with their jobs, over HTTP and JSON at the edge."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob


async def test_the_life_of_a_job_that_waits(stack: RunningMesh, trained: TrainedJob) -> None:
    async def ask(method: str, path: str, body: dict[str, Any] | None = None, code: int = 200) -> Any:
        answer = await stack.http.request(method, f"/v1/trainings{path}", json=body, headers=trained.owner.user.headers)
        assert answer.status_code == code, answer.text
        return answer.json()

    # No trainer here is of that class: nobody takes the job meanwhile.
    wanted = {"modelId": trained.model.id, "datasetId": trained.dataset.id, "deviceClass": "DEVICE_CLASS_JETSON"}
    job = await ask("POST", "", {**wanted, "name": "waits"})
    path = f"/{job['id']}"
    try:
        paused = await ask("POST", f"{path}/pause", {})
        assert (paused["state"], paused["isPaused"], paused["reason"]) == (
            "JOB_STATE_QUEUED",
            True,
            "STATE_REASON_PAUSED",
        )
        assert not (await ask("POST", f"{path}/resume", {})).get("isPaused")
        renamed = await ask("PATCH", f"{path}?updateMask=name,priority", {"name": "second", "etag": job["etag"]})
        assert (renamed["name"], renamed["etag"] != job["etag"]) == ("second", True)
        refused = await ask("PATCH", path, {"name": "third", "etag": job["etag"]}, code=409)
        assert refused["details"][0]["reason"] == "ETAG_MISMATCH"
        assert (await ask("POST", f"{path}/stop", {}))["state"] == "JOB_STATE_STOPPED"
        retried = await ask("POST", f"{path}/retry", {"fromScratch": True})
        assert (retried["state"], retried["reason"]) == ("JOB_STATE_QUEUED", "STATE_REASON_RETRY_REQUESTED")
        assert not (await ask("GET", f"{path}/checkpoints")).get("checkpoints")
    finally:
        request_id = uuid4()
        for _ in range(2):
            assert await ask("DELETE", f"{path}?requestId={request_id}") == {}
    await ask("DELETE", path, code=404)


async def test_a_completed_job_is_not_retried(stack: RunningMesh, trained: TrainedJob) -> None:
    answer = await stack.http.request(
        "POST", f"/v1/trainings/{trained.id}/retry", json={}, headers=trained.owner.user.headers
    )
    assert answer.status_code == 400
    (info,) = [detail for detail in answer.json()["details"] if "reason" in detail]
    assert info["reason"] == "JOB_STATE_CONFLICT"
    assert info["metadata"] == {"state": "COMPLETED", "allowed": "STOPPED, FAILED"}


async def test_its_checkpoints_are_listed(stack: RunningMesh, trained: TrainedJob) -> None:
    answer = await stack.http.request(
        "GET", f"/v1/trainings/{trained.id}/checkpoints?pageSize=1", headers=trained.owner.user.headers
    )
    assert answer.status_code == 200, answer.text
    events = [message.event for message in trained.watched if message.HasField("event")]
    saved = {event.checkpoint.step for event in events if event.HasField("checkpoint")}
    for checkpoint in answer.json().get("checkpoints", []):
        assert int(checkpoint["step"]) in saved
        assert checkpoint["isNewest"]
