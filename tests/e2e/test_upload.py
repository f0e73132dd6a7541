"""Files into a dataset: by presigned URL through the edge, and by a gRPC client stream through the edge."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from reeltune.catalog.v1 import upload_service_pb2, upload_service_pb2_grpc

from tests.e2e.running_mesh import RunningMesh, SignedIn

CHUNK = 1024 * 1024


async def new_dataset(mesh: RunningMesh, user: SignedIn) -> str:
    """Makes a dataset and returns its id."""
    made = await mesh.http.post("/v1/datasets", json={"name": "clips"}, headers=user.headers)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def upload_by_presigned_url(mesh: RunningMesh, user: SignedIn, data: bytes) -> Any:
    """Uploads a file into a new dataset as a browser would; returns what was said of the upload."""
    header = {
        "parentId": await new_dataset(mesh, user),
        "path": "clips/a b.mp4",
        "sizeBytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    answer = await mesh.http.post("/v1/uploads", json={"file": header}, headers=user.headers)
    assert answer.status_code == 200, answer.text
    upload = answer.json()
    for part in upload["parts"]:
        begin = int(part["offsetBytes"])
        put = await mesh.http.put(part["url"], content=data[begin : begin + int(part["sizeBytes"])])
        assert put.status_code == 200, put.text
    done = await mesh.http.post(f"/v1/uploads/{upload['id']}/complete", json={}, headers=user.headers)
    assert done.status_code == 200, done.text
    assert done.json()["sha256"] == header["sha256"]
    return upload


async def test_a_large_file_by_presigned_urls(stack: RunningMesh) -> None:
    upload = await upload_by_presigned_url(stack, await stack.sign_up(), os.urandom(20 * 1024 * 1024))

    assert all(part["url"].startswith(f"{stack.url}/s3/") for part in upload["parts"])


async def test_a_presigned_url_takes_nothing_but_what_it_was_made_for(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    data = b"exactly these bytes"
    header = {
        "parentId": await new_dataset(stack, user),
        "path": "a.mp4",
        "sizeBytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    upload = (await stack.http.post("/v1/uploads", json={"file": header}, headers=user.headers)).json()
    url = upload["parts"][0]["url"]

    longer = await stack.http.put(url, content=data + b"!")
    reading = await stack.http.get(url)
    elsewhere = await stack.http.put(url.replace("/uploads/", "/datasets/"), content=data)
    uncompleted = await stack.http.post(f"/v1/uploads/{upload['id']}/complete", json={}, headers=user.headers)

    assert [longer.status_code, reading.status_code, elsewhere.status_code] == [403, 403, 403]
    assert uncompleted.status_code == 400
    assert uncompleted.json()["details"][0]["domain"] == "reeltune"


async def test_a_small_file_goes_straight_to_its_place(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    data = os.urandom(300_000)
    header = {
        "parentId": await new_dataset(stack, user),
        "path": "a.mp4",
        "sizeBytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    asked = {"requests": [{"file": header, "acceptsHeaders": True}]}
    batch = await stack.http.post("/v1/uploads:batchCreate", json=asked, headers=user.headers)
    assert batch.status_code == 200, batch.text
    upload = batch.json()["results"][0]["upload"]
    (part,) = upload["parts"]
    assert f"/s3/reeltune-catalog/contents/{user.user_id}/{header['sha256']}?" in part["url"]

    bare = await stack.http.put(part["url"], content=data)
    other = await stack.http.put(part["url"], content=os.urandom(len(data)), headers=part["headers"])
    sent = await stack.http.put(part["url"], content=data, headers=part["headers"])
    again = await stack.http.put(part["url"], content=data, headers=part["headers"])
    assert [answer.status_code for answer in (bare, other, sent, again)] == [403, 400, 200, 412]

    done = {"requests": [{"uploadId": upload["id"]}]}
    completed = await stack.http.post("/v1/uploads:batchComplete", json=done, headers=user.headers)
    assert completed.json()["results"][0]["file"]["path"] == "a.mp4", completed.text


async def test_a_large_file_by_client_stream(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    data = os.urandom(20 * 1024 * 1024)
    header = upload_service_pb2.FileHeader(
        parent_id=await new_dataset(stack, user),
        path="clips/streamed.mp4",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )

    def messages() -> Iterator[upload_service_pb2.UploadFileRequest]:
        yield upload_service_pb2.UploadFileRequest(header=header)
        for begin in range(0, len(data), CHUNK):
            yield upload_service_pb2.UploadFileRequest(chunk=data[begin : begin + CHUNK])

    stub = upload_service_pb2_grpc.UploadServiceStub(stack.channel)
    answer = await stub.UploadFile(messages(), metadata=user.metadata, timeout=60)

    assert answer.file.sha256 == header.sha256
