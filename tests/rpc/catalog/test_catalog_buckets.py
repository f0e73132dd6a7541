"""Imports from buckets of users' own: by copy, by reference, in public; and what becomes of their secrets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from reeltune.catalog.v1 import clip_service_pb2 as clp
from reeltune.catalog.v1 import dataset_pb2, storage_location_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import import_pb2 as pb
from reeltune.catalog.v1 import snapshot_service_pb2 as snap
from reeltune.catalog.v1 import storage_service_pb2 as st
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1 import version_service_pb2 as vs

from catalog_svc.store import location_store
from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import assert_eventually
from meshkit.testing.plugin import S3_IDENTITY
from tests.rpc.catalog.catalog_mesh import BOB, CatalogMesh, Start, collected, refused
from tests.rpc.catalog.clips import h264_clip
from tests.rpc.catalog.web_source import web_source

BUCKET = "elsewhere"
FILES = {
    "set/annotations.csv": b"video,caption\nclips/a.mp4,A bar.\nclips/b c.mp4,Another.\n",
    "set/clips/a.mp4": h264_clip(),
    "set/clips/b c.mp4": h264_clip(1),
    "set/README.md": b"about",
    "settled/other.mp4": h264_clip(2),
}


@dataclass
class Elsewhere:
    """A user's bucket, registered with a service."""

    mesh: CatalogMesh
    blobs: BlobStore
    location: storage_location_pb2.StorageLocation

    async def imported(self, dataset_id: str, mode: pb.ImportMode.ValueType, prefix: str = "set/") -> pb.Import:
        source = pb.BucketSource(uri=f"s3://{BUCKET}/{prefix}", storage_location_id=self.location.id, mode=mode)
        return await self.mesh.imported(dataset_id, bucket=source)

    async def ready(self, mode: pb.ImportMode.ValueType) -> dataset_pb2.Dataset:
        dataset = await self.mesh.create_dataset()
        done = await self.imported(dataset.id, mode)
        assert done.state == pb.IMPORT_STATE_COMPLETED, (done, await self.mesh.import_errors(done.id))
        ready = await self.mesh.validated(dataset.id)
        assert ready.state == dataset_pb2.DATASET_STATE_READY, await self.mesh.issues(dataset.id)
        return ready

    async def clips(self, dataset_id: str) -> snap.GetClipsResponse:
        request = snap.GetClipsRequest(dataset_id=dataset_id, paths=["clips/a.mp4", "clips/b c.mp4"])
        return await self.mesh.snapshots.GetClips(request, metadata=self.mesh.as_user())


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(start: Start, s3_server: S3Server) -> AsyncIterator[Elsewhere]:
    mesh = await start(import_test_hosts=s3_server.endpoint, storage_key=Fernet.generate_key().decode(), import_tries=2)
    blobs = BlobStore(s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, BUCKET)
    await blobs.ensure_bucket()
    for key, data in FILES.items():
        await blobs.put_bytes(key, data)
    location = await register(mesh, f"http://{s3_server.endpoint}")
    yield Elsewhere(mesh, blobs, location)
    await blobs.close()


async def register(mesh: CatalogMesh, endpoint: str, name: str = "mine") -> storage_location_pb2.StorageLocation:
    credentials = st.StorageCredentials(access_key_id=S3_IDENTITY.access_key, secret_access_key=S3_IDENTITY.secret_key)
    request = st.CreateStorageLocationRequest(name=name, endpoint=endpoint, bucket=BUCKET, credentials=credentials)
    made = await mesh.storage.CreateStorageLocation(request, metadata=mesh.as_user())
    return made.storage_location


async def test_locations_added_at_once_keep_within_the_limit(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_store, "MAX_LOCATIONS", 3)
    adding = (register(elsewhere.mesh, elsewhere.location.endpoint, f"n{number}") for number in range(8))
    made = await asyncio.gather(*adding, return_exceptions=True)
    refused_ones = [failure_from_rpc_error(one).reason for one in made if isinstance(one, grpc.aio.AioRpcError)]
    assert refused_ones == ["TOO_MANY_STORAGE_LOCATIONS"] * 6


async def test_by_copy_the_bucket_is_needed_no_more(elsewhere: Elsewhere) -> None:
    ready = await elsewhere.ready(pb.IMPORT_MODE_COPY)
    assert (ready.counts.clips, ready.counts.rows) == (2, 2)
    for key in FILES:
        await elsewhere.blobs.remove(key)
    for clip in (await elsewhere.clips(ready.id)).clips:
        assert (await elsewhere.mesh.http.get(clip.url)).content == FILES[f"set/{clip.path}"]
    request = st.DeleteStorageLocationRequest(storage_location_id=elsewhere.location.id)
    await elsewhere.mesh.storage.DeleteStorageLocation(request, metadata=elsewhere.mesh.as_user())


async def test_by_reference_clips_are_read_where_they_are(elsewhere: Elsewhere) -> None:
    mesh = elsewhere.mesh
    ready = await elsewhere.ready(pb.IMPORT_MODE_REFERENCE)
    kept = [item.key for item in await mesh.blobs.list("contents/")]
    assert len(kept) == 1, "only the annotation file is copied"
    stream = mesh.snapshots.StreamDatasetSnapshot(
        snap.StreamDatasetSnapshotRequest(dataset_id=ready.id), metadata=mesh.as_user()
    )
    streamed = [clip for message in await collected(stream) for clip in message.clips.clips]
    listed = (await mesh.clips.ListClips(clp.ListClipsRequest(dataset_id=ready.id), metadata=mesh.as_user())).clips
    assert [clip.is_reference for clip in listed] == [True] * 2
    for clip in listed:
        assert (await mesh.http.get(clip.poster_url)).content.startswith(b"\xff\xd8"), "a JPEG"
    for clip in (*(await elsewhere.clips(ready.id)).clips, *streamed):
        assert f"/{BUCKET}/set/" in clip.url
        assert S3_IDENTITY.secret_key not in clip.url
        assert (await mesh.http.get(clip.url)).content == FILES[f"set/{clip.path}"]
    request = st.DeleteStorageLocationRequest(storage_location_id=elsewhere.location.id)
    failure = await refused(mesh.storage.DeleteStorageLocation(request, metadata=mesh.as_user()))
    assert failure.reason == "STORAGE_LOCATION_IN_USE"


async def test_pictures_of_references_last_as_long_as_a_version_refers_to_them(elsewhere: Elsewhere) -> None:
    mesh = elsewhere.mesh
    first = await elsewhere.ready(pb.IMPORT_MODE_REFERENCE)
    request = vs.CreateDatasetVersionRequest(dataset_id=first.id)
    second = (await mesh.versions.CreateDatasetVersion(request, metadata=mesh.as_user())).dataset
    prefix = f"pictures/{elsewhere.location.id}/"
    digests = {hashlib.sha256(FILES[f"set/clips/{name}.mp4"]).hexdigest() for name in ("a", "b c")}
    kept = [f"{prefix}{digest}.poster.jpg" for digest in sorted(digests)]

    async def pictures() -> list[str]:
        return sorted(item.key for item in await mesh.blobs.list(prefix))

    assert await pictures() == kept
    await deleted(mesh, first.id)
    await assert_eventually(nothing_is_due(mesh))
    assert await pictures() == kept
    listed = (await mesh.clips.ListClips(clp.ListClipsRequest(dataset_id=second.id), metadata=mesh.as_user())).clips
    assert [(await mesh.http.get(clip.poster_url)).status_code for clip in listed] == [200, 200]
    await deleted(mesh, second.id)

    async def all_gone() -> bool:
        return await pictures() == []

    await assert_eventually(all_gone)


async def test_a_clip_has_its_pictures_wherever_it_lies(elsewhere: Elsewhere) -> None:
    mesh = elsewhere.mesh
    dataset = await mesh.create_dataset()
    await elsewhere.imported(dataset.id, pb.IMPORT_MODE_REFERENCE)
    await mesh.put(dataset.id, "clips/mine.mp4", FILES["set/clips/a.mp4"])
    # An annotation that is wrong: the dataset stays open for other files.
    await mesh.put(dataset.id, "annotations.csv", b"video,caption\nclips/none.mp4,A bar.\n")

    async def posters() -> dict[str, int]:
        await mesh.validated(dataset.id)
        listed = await mesh.clips.ListClips(clp.ListClipsRequest(dataset_id=dataset.id), metadata=mesh.as_user())
        return {clip.path: (await mesh.http.get(clip.poster_url)).status_code for clip in listed.clips}

    paths = ("clips/a.mp4", "clips/b c.mp4", "clips/mine.mp4")
    assert await posters() == dict.fromkeys(paths, 200), "the same bytes both there and here"
    # What was referred to lies here now, and the other way round.
    await mesh.put(dataset.id, "clips/b c.mp4", FILES["set/clips/b c.mp4"])
    await mesh.uploads.DeleteFile(
        us.DeleteFileRequest(parent_id=dataset.id, path="clips/mine.mp4"), metadata=mesh.as_user()
    )
    await assert_eventually(nothing_is_due(mesh))
    assert await posters() == dict.fromkeys(paths[:2], 200)
    await elsewhere.imported(dataset.id, pb.IMPORT_MODE_REFERENCE)
    await mesh.put(dataset.id, "annotations.csv", b"video,caption\nclips/none.mp4,A bar.\n")
    await assert_eventually(nothing_is_due(mesh))
    assert await posters() == dict.fromkeys(paths[:2], 200)


async def deleted(mesh: CatalogMesh, dataset_id: str) -> None:
    await mesh.datasets.DeleteDataset(ds.DeleteDatasetRequest(dataset_id=dataset_id), metadata=mesh.as_user())


def nothing_is_due(mesh: CatalogMesh) -> Callable[[], Awaitable[bool]]:
    """What was deleted is purged, and what it used has been looked at; but for what uploads may still write."""

    async def is_clean() -> bool:
        left = await mesh.pool.fetchval(
            "SELECT (SELECT count(*) FROM garbage WHERE kind = 'CONTENT' AND due_time < now() + interval '11 minutes')"
            " + (SELECT count(*) FROM entries WHERE delete_time IS NOT NULL)"
        )
        return bool(left == 0)

    return is_clean


@pytest.mark.parametrize(("data", "cause"), [(h264_clip(9), "SOURCE_CHANGED"), (None, "SOURCE_NOT_FOUND")])
async def test_an_object_that_is_another_now_is_refused(elsewhere: Elsewhere, data: bytes | None, cause: str) -> None:
    ready = await elsewhere.ready(pb.IMPORT_MODE_REFERENCE)
    key = "set/clips/a.mp4"
    await (elsewhere.blobs.remove(key) if data is None else elsewhere.blobs.put_bytes(key, data))
    failure = await refused(elsewhere.clips(ready.id))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_BROKEN")
    assert failure.metadata == {"key": key, "cause": cause}
    await elsewhere.blobs.put_bytes(key, FILES[key])
    assert len((await elsewhere.clips(ready.id)).clips) == 2


async def test_an_object_that_changes_before_it_is_validated_is_an_issue(elsewhere: Elsewhere) -> None:
    dataset = await elsewhere.mesh.create_dataset()
    await elsewhere.imported(dataset.id, pb.IMPORT_MODE_REFERENCE)
    await elsewhere.blobs.put_bytes("set/clips/a.mp4", h264_clip(9))
    found = await elsewhere.mesh.validated(dataset.id)
    assert found.state == dataset_pb2.DATASET_STATE_ERROR
    assert ("CLIP_REFERENCE_BROKEN", "clips/a.mp4", 1) in await elsewhere.mesh.issues(dataset.id)
    await elsewhere.blobs.put_bytes("set/clips/a.mp4", FILES["set/clips/a.mp4"])
    assert (await elsewhere.mesh.validated(dataset.id)).state == dataset_pb2.DATASET_STATE_READY


async def test_secrets_come_back_from_nowhere(elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture) -> None:
    mesh, alice = elsewhere.mesh, elsewhere.mesh.as_user()
    with caplog.at_level(logging.DEBUG):
        listed = await mesh.storage.ListStorageLocations(st.ListStorageLocationsRequest(), metadata=alice)
        await elsewhere.ready(pb.IMPORT_MODE_COPY)
    assert listed.storage_locations[0].has_secret
    secret = S3_IDENTITY.secret_key
    assert secret not in str(listed)
    assert secret not in caplog.text
    rows = await mesh.pool.fetch("SELECT * FROM storage_locations")
    assert secret.encode() not in b"".join(row["secret"] for row in rows)
    assert secret not in str(await mesh.pool.fetch("SELECT * FROM imports"))
    # A secret opens nothing in another row, nor for another user.
    await mesh.pool.execute(
        "INSERT INTO storage_locations SELECT 'loc_" + "0" * 26 + "', $1, name, endpoint, region, bucket,"
        " access_key_id, secret FROM storage_locations",
        BOB,
    )
    dataset = await mesh.create_dataset("bobs", user=BOB)
    source = pb.BucketSource(uri=f"s3://{BUCKET}/set", storage_location_id="loc_" + "0" * 26)
    done = await mesh.imported(dataset.id, BOB, bucket=source)
    assert done.error_reason == "SECRETS_NOT_CONFIGURED"


async def test_wrong_credentials_are_told_and_mended(elsewhere: Elsewhere) -> None:
    mesh, alice = elsewhere.mesh, elsewhere.mesh.as_user()
    dataset = await mesh.create_dataset()
    for secret, reason in (("wrong", "SOURCE_FORBIDDEN"), (S3_IDENTITY.secret_key, "")):
        credentials = st.StorageCredentials(access_key_id=S3_IDENTITY.access_key, secret_access_key=secret)
        request = st.UpdateStorageCredentialsRequest(storage_location_id=elsewhere.location.id, credentials=credentials)
        await mesh.storage.UpdateStorageCredentials(request, metadata=alice)
        assert (await elsewhere.imported(dataset.id, pb.IMPORT_MODE_COPY)).error_reason == reason


async def test_endpoints_that_are_never_reached_are_not_registered(elsewhere: Elsewhere) -> None:
    for endpoint in ("https://10.0.0.1", "http://s3.example.com", "https://127.0.0.1:9000", "https://s3.example.com/x"):
        failure = await refused(register(elsewhere.mesh, endpoint, "other"))
        assert failure.reason in ("SOURCE_REFUSED", "FIELD_INVALID")
    failure = await refused(register(elsewhere.mesh, elsewhere.location.endpoint))
    assert failure.reason == "STORAGE_LOCATION_EXISTS"
    other = pb.BucketSource(uri="s3://another/set", storage_location_id=elsewhere.location.id)
    dataset = await elsewhere.mesh.create_dataset()
    assert (await refused(elsewhere.mesh.begin_import(dataset.id, bucket=other))).reason == "FIELD_INVALID"


async def test_without_a_key_no_secret_is_taken(mesh: CatalogMesh) -> None:
    failure = await refused(register(mesh, "https://s3.example.com"))
    assert failure.reason == "SECRETS_NOT_CONFIGURED"


async def test_a_public_bucket_needs_no_location_and_its_list_is_not_trusted(start: Start) -> None:
    async with web_source() as web:
        mesh = await start(import_test_hosts=web.host, import_s3_endpoint=web.url(""), import_tries=1)
        names = ["set/a.mp4", "set/../../up.mp4", "set//x.mp4", "set/folder/"]
        contents = "".join(f"<Contents><Key>{name}</Key><Size>0</Size></Contents>" for name in names)
        web.files["/open-bucket"] = f"<ListBucketResult>{contents}</ListBucketResult>".encode()
        web.files["/open-bucket/set/a.mp4"] = h264_clip()
        dataset = await mesh.create_dataset()
        done = await mesh.imported(dataset.id, bucket=pb.BucketSource(uri="s3://open-bucket/set/"))
        assert await mesh.paths(dataset.id) == ["a.mp4"]
        assert set((await mesh.import_errors(done.id)).values()) == {"PATH_INVALID"}
        bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ListBucketResult>&b;</ListBucketResult>'
        web.files["/open-bucket"] = bomb.encode()
        done = await mesh.imported(dataset.id, bucket=pb.BucketSource(uri="s3://open-bucket/set/"))
        assert done.error_reason == "SOURCE_ANSWER_INVALID"
        assert json.dumps(web.requests).count("up.mp4") == 0
