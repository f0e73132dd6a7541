"""What a dataset holds, over the edge and by the command: real clips, their pictures, its numbers."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.running_mesh import PASSWORD, RunningMesh
from tests.rpc.catalog.clips import odd_clip, real_clips

TURNED = "clips/a turned one, no. 1.mkv"


async def test_clips_and_numbers_of_a_dataset(stack: RunningMesh, tmp_path: Path) -> None:
    files = {"clips/bikes.mp4": real_clips()["bikes.mp4"], TURNED: odd_clip(container="matroska", rotation=90)}
    (tmp_path / "clips").mkdir()
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    tags = {TURNED: ["turned", "odd"], "clips/bikes.mp4": ["street"]}
    rows = [{"video": path, "caption": "Something moves.", "tags": tags[path]} for path in files]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    name = f"views-{secrets.token_hex(4)}"
    signed_up = await stack.run(
        *("signup", name, "--email", f"{name}@example.com", "--password-stdin"), stdin=f"{PASSWORD}\n"
    )
    assert signed_up.returncode == 0, signed_up.stderr

    uploaded = await answer(stack, "dataset", "upload", str(tmp_path), "--name", "views")
    listed = await answer(stack, "dataset", "clips", "views")
    numbers = await answer(stack, "dataset", "statistics", "views", "--max-frames", "4")
    assert [clip["path"] for clip in listed["clips"]] == sorted(files)
    assert numbers["statistics"]["visualTokens"]["count"] == "2"
    assert [(tag["name"], tag["count"]) for tag in numbers["statistics"]["tags"]] == [
        ("odd", "1"),
        ("street", "1"),
        ("turned", "1"),
    ]
    tagged = await answer(stack, "dataset", "samples", "views", "--tag", "odd")
    assert [sample["tags"] for sample in tagged["samples"]] == [["turned", "odd"]]

    said = await stack.http.post("/v1/auth/login", json={"username": name, "password": PASSWORD})
    headers = {"authorization": f"Bearer {said.json()['tokens']['accessToken']}"}
    base = f"/v1/datasets/{uploaded['dataset']['id']}"
    clip = (await stack.http.get(f"{base}/clips/{quote(TURNED)}", headers=headers)).json()
    page = (await stack.http.get(f"{base}/clips", params={"page_size": 1}, headers=headers)).json()
    query = {"sampling.max_frames": 4, "sampling.family": "VISION_FAMILY_QWEN2_VL"}
    by_http = (await stack.http.get(f"{base}/statistics", params=query, headers=headers)).json()
    assert (clip["path"], clip["rotation"], clip["isBrowserPlayable"]) == (TURNED, 270, False)
    assert len(page["clips"]) == 1
    assert page["nextPageToken"]
    assert by_http["sampling"] == {"family": "VISION_FAMILY_QWEN2_VL", "maxFrames": 4, "fps": 0, "maxPixels": "0"}
    for url, kind in ((clip["posterUrl"], "image/jpeg"), (clip["proxyUrl"], "video/mp4")):
        assert url.startswith(f"{stack.url}/s3/")
        assert (await stack.http.get(url)).headers["content-type"] == kind


async def answer(mesh: RunningMesh, *arguments: str) -> dict[str, Any]:
    """Runs the command and returns what it answers as JSON."""
    done = await mesh.run(*arguments, "--output", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
