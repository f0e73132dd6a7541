"""What owners do with datasets after the upload: by the command, over HTTP/JSON and by gRPC, at the edge."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from reeltune.scheduler.v1 import use_service_pb2

from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.e2e.trained_job import TrainedJob
from tests.rpc.catalog.clips import h264_clip, truncated


async def test_uses_and_deletion_of_what_a_live_job_uses(stack: RunningMesh, trained: TrainedJob) -> None:
    async def ask(method: str, path: str, body: dict[str, Any] | None = None, code: int = 200) -> Any:
        answer = await stack.http.request(method, f"/v1{path}", json=body, headers=trained.owner.user.headers)
        assert answer.status_code == code, answer.text
        return answer.json()

    # No trainer here is of that class: nobody takes the job meanwhile.
    wanted = {"modelId": trained.model.id, "datasetId": trained.dataset.id, "deviceClass": "DEVICE_CLASS_JETSON"}
    job = await ask("POST", "/trainings", {**wanted, "name": "waits"})
    try:
        for path in (f"/datasets/{trained.dataset.id}", f"/models/{trained.model.id}"):
            refused = await ask("DELETE", path, code=400)
            assert (refused["details"][0]["reason"], refused["details"][0]["metadata"]["jobs"]) == ("IN_USE", job["id"])
        uses = await trained.owner.client.uses.ListUses(use_service_pb2.ListUsesRequest(entry_id=trained.model.id))
        newest, *before = [use.job_id for use in uses.uses]
        # Other tests have jobs of their own with this model.
        assert newest == job["id"]
        assert trained.id in before
    finally:
        await ask("POST", f"/trainings/{job['id']}/stop", {})
        await ask("DELETE", f"/trainings/{job['id']}")


async def test_versions_quarantine_and_undelete_by_commands(stack: RunningMesh, tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    folder.mkdir()
    (folder / "annotations.csv").write_text("video,caption\na.mp4,A bar.\nb.mp4,Cut short.\n")
    (folder / "a.mp4").write_bytes(h264_clip())
    (folder / "b.mp4").write_bytes(truncated())
    name = f"keeper-{secrets.token_hex(4)}"
    signing_up = ("signup", name, "--email", f"{name}@example.com", "--password-stdin")
    assert (await stack.run(*signing_up, stdin=f"{PASSWORD}\n")).returncode == 0

    refused = await stack.run("dataset", "upload", str(folder), "--output", "json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["reason"]) == (1, "DATASET_INVALID")
    ready = (await answer(stack, "dataset", "quarantine", "bars", "--yes"))["dataset"]
    assert (ready["state"], ready["counts"]["quarantinedRows"]) == ("DATASET_STATE_READY", "1")
    left_out = (await answer(stack, "dataset", "quarantined", "bars"))["items"]
    assert [(item["file"], item["reason"]) for item in left_out] == [("b.mp4", "CLIP_TRUNCATED")]

    (folder / "b.mp4").write_bytes(h264_clip(1))
    second = (await answer(stack, "dataset", "new-version", "bars"))["dataset"]
    mended = (await answer(stack, "dataset", "upload", str(folder)))["dataset"]
    assert (mended["id"], mended["version"], mended["counts"]["rows"]) == (second["id"], 2, "2")
    listed = (await answer(stack, "dataset", "versions", "bars"))["datasets"]
    assert [version["version"] for version in listed] == [2, 1]
    assert (await answer(stack, "dataset", "show", "bars@1"))["dataset"]["id"] == ready["id"]

    usage = (await answer(stack, "usage", "show"))["usage"]
    assert (usage["storedFiles"], usage["datasets"]) == ("4", "2")
    await answer(stack, "dataset", "delete", "bars", "--yes")
    assert len((await answer(stack, "dataset", "list"))["datasets"]) == 1
    assert len((await answer(stack, "dataset", "list", "--deleted"))["datasets"]) == 2
    assert (await answer(stack, "dataset", "undelete", "bars"))["dataset"]["id"] == second["id"]


async def answer(mesh: RunningMesh, *arguments: str) -> Any:
    """Runs a command that must succeed and returns its JSON."""
    finished = await mesh.run(*arguments, "--output", "json")
    assert finished.returncode == 0, f"{arguments}: {finished.stdout}{finished.stderr}"
    return json.loads(finished.stdout)
