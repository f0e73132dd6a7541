"""Each way of having files fetched, through the edge: addresses, annotation files, buckets, a hub, a folder."""

from __future__ import annotations

import json
import secrets
from typing import Any

from reeltune.catalog.v1 import import_pb2, import_service_pb2, import_service_pb2_grpc

from meshkit.testing.plugin import S3_IDENTITY
from tests.e2e.import_sources import BUCKET, ImportSources
from tests.e2e.running_mesh import PASSWORD, RunningMesh, SignedIn
from tests.rpc.catalog.clips import h264_clip

COMMIT = "c0ffee" * 6 + "c0de"


async def imported(mesh: RunningMesh, user: SignedIn, kind: str, source: dict[str, Any]) -> tuple[str, Any]:
    """Imports over JSON into a new dataset or model, watches it over gRPC, and returns the parent and what came."""
    made = await mesh.http.post(f"/v1/{kind}", json={"name": secrets.token_hex(8)}, headers=user.headers)
    assert made.status_code == 200, made.text
    parent = str(made.json()["id"])
    begun = await mesh.http.post("/v1/imports", json={"parentId": parent, "source": source}, headers=user.headers)
    assert begun.status_code == 200, begun.text
    stub = import_service_pb2_grpc.ImportServiceStub(mesh.channel)
    watch = stub.WatchImport(
        import_service_pb2.WatchImportRequest(import_id=begun.json()["id"]), metadata=user.metadata, timeout=60
    )
    last = [message.data_import async for message in watch][-1]
    assert last.state == import_pb2.IMPORT_STATE_COMPLETED, (last, mesh.log("catalog")[-2000:])
    files = await mesh.http.get(f"/v1/{kind}/{parent}/files", headers=user.headers)
    return parent, {file["path"] for file in files.json()["files"]}


async def storage_location(mesh: RunningMesh, user: SignedIn, sources: ImportSources) -> str:
    body = {
        "name": "mine",
        "endpoint": sources.store,
        "bucket": BUCKET,
        "credentials": {"accessKeyId": S3_IDENTITY.access_key, "secretAccessKey": S3_IDENTITY.secret_key},
    }
    made = await mesh.http.post("/v1/storage-locations", json=body, headers=user.headers)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def test_an_address(stack: RunningMesh, sources: ImportSources) -> None:
    sources.web.files["/one.mp4"] = h264_clip()
    url = sources.web.url("/one.mp4")
    assert url.startswith("https://")
    _, paths = await imported(stack, await stack.sign_up(), "datasets", {"url": {"url": url}})
    assert paths == {"one.mp4"}


async def test_a_hub_and_a_folder(stack: RunningMesh, sources: ImportSources) -> None:
    user = await stack.sign_up()
    files = {"config.json": b"{}", "model.safetensors": b"x", "pytorch_model.bin": b"x"}
    sources.web.add_hub_repository("models", "org/base", COMMIT, files)
    _, paths = await imported(stack, user, "models", {"hub": {"repository": "org/base"}})
    assert paths == {"config.json", "model.safetensors"}
    (sources.folder / "set").mkdir()
    (sources.folder / "set" / "a.mp4").write_bytes(h264_clip())
    folder = {"folder": {"path": str(sources.folder / "set")}}
    _, paths = await imported(stack, user, "datasets", folder)
    assert paths == {"a.mp4"}


async def test_a_bucket_by_copy_and_by_reference(stack: RunningMesh, sources: ImportSources) -> None:
    user = await stack.sign_up()
    location = await storage_location(stack, user, sources)
    await sources.bucket.put_bytes("set/annotations.csv", b"video,caption\na.mp4,A bar.\n")
    await sources.bucket.put_bytes("set/a.mp4", h264_clip())
    for mode in ("IMPORT_MODE_COPY", "IMPORT_MODE_REFERENCE"):
        source = {"uri": f"s3://{BUCKET}/set/", "storageLocationId": location, "mode": mode}
        _, paths = await imported(stack, user, "datasets", {"bucket": source})
        assert paths == {"annotations.csv", "a.mp4"}


async def test_rows_that_name_addresses_by_command(stack: RunningMesh, sources: ImportSources) -> None:
    user = await stack.sign_up()
    signed_in = await stack.run("login", user.username, "--password-stdin", stdin=PASSWORD)
    assert signed_in.returncode == 0, signed_in.stderr
    sources.web.files["/bar.mp4"] = h264_clip(3)
    sources.web.files["/rows.csv"] = f"video,caption\n{sources.web.url('/bar.mp4')},A bar.\n".encode()
    done = await stack.run("dataset", "import", "bars", sources.web.url("/rows.csv"), "--output", "json")
    assert done.returncode == 0, done.stderr
    dataset = json.loads(done.stdout)["dataset"]
    assert (dataset["state"], dataset["counts"]["rows"]) == ("DATASET_STATE_READY", "1")


async def test_nothing_inside_is_reached(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    made = await stack.http.post("/v1/datasets", json={"name": "clips"}, headers=user.headers)
    for url in (f"https://127.0.0.1:{stack.port('postgres')}/", "https://169.254.169.254/", "http://example.com/"):
        body = {"parentId": made.json()["id"], "source": {"url": {"url": url}}}
        refused = await stack.http.post("/v1/imports", json=body, headers=user.headers)
        assert refused.status_code == 400
        assert "SOURCE_REFUSED" in refused.text
