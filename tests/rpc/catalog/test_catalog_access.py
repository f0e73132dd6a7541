"""Who may do what: user B on every rpc with every id of user A, attempts with other people's ids, nobody at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from reeltune.catalog.v1 import clip_service_pb2 as clp
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, import_pb2, model_pb2, visibility_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import import_service_pb2 as im
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import sample_service_pb2 as smp
from reeltune.catalog.v1 import snapshot_service_pb2 as snap
from reeltune.catalog.v1 import storage_service_pb2 as st
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1 import version_service_pb2 as vs

from meshkit.auth.principal import Caller
from meshkit.ids import new_id
from tests.contract_services import contract_services
from tests.rpc.catalog.catalog_mesh import ALICE, BOB, CatalogMesh, Metadata, model_files
from tests.rpc.catalog.clips import h264_clip

METHODS = [method for service in contract_services("catalog") for method in service.methods]
FILES = {"annotations.csv": b"video,caption\na.mp4,A bar.\n", "a.mp4": h264_clip()}
DIGEST = "0" * 64


@dataclass(frozen=True)
class Ids:
    """What user A owns, or ids of the same form that nobody does."""

    dataset: str
    model: str
    upload: str
    data_import: str
    location: str


def requests_with_ids(ids: Ids) -> dict[str, list[Message]]:
    """By rpc: requests that name these ids. Rpcs that take no id have none."""
    dataset_header = us.FileHeader(parent_id=ids.dataset, path="b.mp4", size_bytes=1, sha256=DIGEST)
    model_header = us.FileHeader(parent_id=ids.model, path="config.json", size_bytes=1, sha256=DIGEST)
    bucket = import_pb2.BucketSource(uri="s3://bucket", storage_location_id=ids.location)
    credentials = st.StorageCredentials(access_key_id="id", secret_access_key="key")
    return {
        "CreateImport": [
            im.CreateImportRequest(parent_id=ids.dataset, source=import_pb2.ImportSource(bucket=bucket)),
            im.CreateImportRequest(parent_id=ids.model, source=import_pb2.ImportSource(bucket=bucket)),
        ],
        "GetImport": [im.GetImportRequest(import_id=ids.data_import)],
        "ListImports": [],
        "CancelImport": [im.CancelImportRequest(import_id=ids.data_import)],
        "WatchImport": [im.WatchImportRequest(import_id=ids.data_import)],
        "ListImportErrors": [im.ListImportErrorsRequest(import_id=ids.data_import)],
        "CreateStorageLocation": [],
        "GetStorageLocation": [st.GetStorageLocationRequest(storage_location_id=ids.location)],
        "ListStorageLocations": [],
        "UpdateStorageCredentials": [
            st.UpdateStorageCredentialsRequest(storage_location_id=ids.location, credentials=credentials)
        ],
        "DeleteStorageLocation": [st.DeleteStorageLocationRequest(storage_location_id=ids.location)],
        "CreateDataset": [],
        "ListDatasets": [],
        "GetDataset": [ds.GetDatasetRequest(dataset_id=ids.dataset)],
        "UpdateDataset": [ds.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(id=ids.dataset, description="mine"))],
        "DeleteDataset": [ds.DeleteDatasetRequest(dataset_id=ids.dataset)],
        "ValidateDataset": [ds.ValidateDatasetRequest(dataset_id=ids.dataset)],
        "WatchDataset": [ds.WatchDatasetRequest(dataset_id=ids.dataset)],
        "ListDatasetIssues": [content.ListDatasetIssuesRequest(dataset_id=ids.dataset)],
        "ListSamples": [content.ListSamplesRequest(dataset_id=ids.dataset)],
        "ExportDataset": [content.ExportDatasetRequest(dataset_id=ids.dataset)],
        "ListClips": [clp.ListClipsRequest(dataset_id=ids.dataset)],
        "GetClip": [clp.GetClipRequest(dataset_id=ids.dataset, path="a.mp4")],
        "GetDatasetStatistics": [smp.GetDatasetStatisticsRequest(dataset_id=ids.dataset)],
        "UndeleteDataset": [content.UndeleteDatasetRequest(dataset_id=ids.dataset)],
        "UndeleteModel": [ms.UndeleteModelRequest(model_id=ids.model)],
        # A batch does not fail for one of its files: see test_catalog_upload_batches.py.
        "BatchCreateUploads": [],
        "BatchCompleteUploads": [],
        "GetMyUsage": [],
        "GetUsage": [],
        "ListUsage": [],
        "CreateDatasetVersion": [vs.CreateDatasetVersionRequest(dataset_id=ids.dataset)],
        "ListDatasetVersions": [vs.ListDatasetVersionsRequest(dataset_id=ids.dataset)],
        "QuarantineDataset": [vs.QuarantineDatasetRequest(dataset_id=ids.dataset)],
        "ListQuarantine": [vs.ListQuarantineRequest(dataset_id=ids.dataset)],
        "GetSamplePreview": [smp.GetSamplePreviewRequest(dataset_id=ids.dataset, sample_id="s1", model_id=ids.model)],
        "CreateModel": [],
        "ListModels": [],
        "GetModel": [ms.GetModelRequest(model_id=ids.model)],
        "UpdateModel": [ms.UpdateModelRequest(model=model_pb2.Model(id=ids.model, description="mine"))],
        "DeleteModel": [ms.DeleteModelRequest(model_id=ids.model)],
        "ValidateModel": [ms.ValidateModelRequest(model_id=ids.model)],
        "WatchModel": [ms.WatchModelRequest(model_id=ids.model)],
        "CreateUpload": [us.CreateUploadRequest(file=dataset_header), us.CreateUploadRequest(file=model_header)],
        "CompleteUpload": [us.CompleteUploadRequest(upload_id=ids.upload)],
        "UploadFile": [us.UploadFileRequest(header=dataset_header), us.UploadFileRequest(header=model_header)],
        "ListFiles": [us.ListFilesRequest(parent_id=ids.dataset), us.ListFilesRequest(parent_id=ids.model)],
        "DeleteFile": [
            us.DeleteFileRequest(parent_id=ids.dataset, path="a.mp4"),
            us.DeleteFileRequest(parent_id=ids.model, path="config.json"),
        ],
        "StreamDatasetSnapshot": [snap.StreamDatasetSnapshotRequest(dataset_id=ids.dataset)],
        "GetClips": [snap.GetClipsRequest(dataset_id=ids.dataset, paths=["a.mp4"])],
        "GetModelSnapshot": [snap.GetModelSnapshotRequest(model_id=ids.model)],
    }


READS = {
    "GetDataset", "WatchDataset", "ListDatasetIssues", "ListSamples", "ExportDataset", "GetModel", "WatchModel",
    "StreamDatasetSnapshot", "GetClips", "GetModelSnapshot", "GetDatasetStatistics", "ListClips", "GetClip",
    "ListDatasetVersions",
}  # fmt: skip
"""What others may do with a shared entry."""


async def call(mesh: CatalogMesh, rpc: str, request: Message, metadata: Metadata) -> Any:
    """Makes a call of any kind and reads the answer to its end."""
    stubs: tuple[Any, ...] = (
        mesh.datasets, mesh.models, mesh.uploads, mesh.snapshots, mesh.samples, mesh.clips, mesh.versions, mesh.imports,
        mesh.storage,
    )  # fmt: skip
    method: Callable[..., Any] = next(getattr(stub, rpc) for stub in stubs if hasattr(stub, rpc))
    if rpc == "UploadFile":

        async def stream() -> AsyncIterator[Message]:
            yield request

        return await method(stream(), metadata=metadata, timeout=60)
    answer = method(request, metadata=metadata, timeout=60)
    if isinstance(answer, Awaitable):
        return await answer
    return [message async for message in answer]


async def refusal(mesh: CatalogMesh, rpc: str, request: Message, metadata: Metadata) -> tuple[Any, ...]:
    """Returns all of a refusal that a client sees, but the id of the request."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(mesh, rpc, request, metadata)
    trailers = [(key, value) for key, value in caught.value.trailing_metadata() or () if key != "x-request-id"]
    return caught.value.code(), caught.value.details(), tuple(trailers)


async def owned_by_alice(mesh: CatalogMesh) -> Ids:
    dataset = await mesh.ready_dataset(FILES)
    model = await mesh.create_model()
    await mesh.put_all(model.id, model_files())
    await mesh.validated_model(model.id)
    open_dataset = await mesh.create_dataset("open")
    upload = await mesh.open_upload(open_dataset.id, "a.mp4", b"x")
    begun = await mesh.imported(open_dataset.id, annotations=import_pb2.AnnotationSource(file="none.csv"))
    request = st.CreateStorageLocationRequest(name="mine", endpoint="https://s3.example.com", bucket="bucket")
    location = (await mesh.storage.CreateStorageLocation(request, metadata=mesh.as_user())).storage_location
    return Ids(dataset.id, model.id, upload.id, begun.id, location.id)


def absent_ids() -> Ids:
    return Ids(new_id("ds"), new_id("mdl"), new_id("upl"), new_id("imp"), new_id("loc"))


def test_the_matrix_knows_every_rpc() -> None:
    assert set(requests_with_ids(Ids("", "", "", "", ""))) == {method.name for method in METHODS}


async def test_another_users_ids_answer_like_absent_ones(mesh: CatalogMesh) -> None:
    foreign = await owned_by_alice(mesh)
    absent = absent_ids()
    bob = mesh.as_user(BOB)
    absent_requests = requests_with_ids(absent)
    for rpc, requests in requests_with_ids(foreign).items():
        for request, twin in zip(requests, absent_requests[rpc], strict=True):
            seen = await refusal(mesh, rpc, request, bob)
            assert seen[0] is grpc.StatusCode.NOT_FOUND, rpc
            assert seen == await refusal(mesh, rpc, twin, bob), rpc
    assert await mesh.pool.fetchval("SELECT count(*) FROM files") == len(FILES) + len(model_files())
    assert await mesh.pool.fetchval("SELECT count(*) FROM entries WHERE description <> ''") == 0


async def test_shared_entries_can_be_read_by_others_and_changed_by_their_owner_only(mesh: CatalogMesh) -> None:
    ids = await owned_by_alice(mesh)
    shared = visibility_pb2.VISIBILITY_SHARED
    for request in (
        ds.UpdateDatasetRequest(dataset=dataset_pb2.Dataset(id=ids.dataset, visibility=shared)),
        ms.UpdateModelRequest(model=model_pb2.Model(id=ids.model, visibility=shared)),
    ):
        rpc = "UpdateDataset" if isinstance(request, ds.UpdateDatasetRequest) else "UpdateModel"
        await call(mesh, rpc, request, mesh.as_user(ALICE))
    bob = mesh.as_user(BOB)
    for rpc, requests in requests_with_ids(ids).items():
        for request in requests:
            if rpc in READS:
                await call(mesh, rpc, request, bob)
            else:
                assert (await refusal(mesh, rpc, request, bob))[0] is grpc.StatusCode.NOT_FOUND, rpc
    listed = await mesh.datasets.ListDatasets(ds.ListDatasetsRequest(), metadata=bob)
    assert [dataset.id for dataset in listed.datasets] == [ids.dataset]


async def test_an_attempt_reads_the_entries_of_its_grant_and_nothing_else(mesh: CatalogMesh) -> None:
    ids = await owned_by_alice(mesh)
    shared = await mesh.ready_dataset(FILES, name="shared", visibility=visibility_pb2.VISIBILITY_SHARED)
    grant = mesh.tokens.machine(Caller.ATTEMPT, "job_1", dataset=ids.dataset, model=ids.model)
    other = mesh.tokens.machine(Caller.ATTEMPT, "job_2", dataset=new_id("ds"), model=new_id("mdl"))
    empty = mesh.tokens.machine(Caller.ATTEMPT, "job_3")
    for rpc in ("StreamDatasetSnapshot", "GetClips", "GetModelSnapshot"):
        for request in requests_with_ids(ids)[rpc]:
            await call(mesh, rpc, request, grant)
            for bearer in (other, empty):
                assert (await refusal(mesh, rpc, request, bearer))[0] is grpc.StatusCode.NOT_FOUND
    request = snap.StreamDatasetSnapshotRequest(dataset_id=shared.id)
    assert (await refusal(mesh, "StreamDatasetSnapshot", request, grant))[0] is grpc.StatusCode.NOT_FOUND
    for rpc, requests in requests_with_ids(ids).items():
        if rpc in ("StreamDatasetSnapshot", "GetClips", "GetModelSnapshot"):
            continue
        for request in requests:
            assert (await refusal(mesh, rpc, request, grant))[0] is grpc.StatusCode.PERMISSION_DENIED, rpc


async def test_nobody_gets_nothing(mesh: CatalogMesh) -> None:
    ids = absent_ids()
    for rpc, requests in requests_with_ids(ids).items():
        for request in requests:
            for metadata in ((), (("authorization", "Bearer nonsense"),)):
                assert (await refusal(mesh, rpc, request, metadata))[0] is grpc.StatusCode.UNAUTHENTICATED, rpc
