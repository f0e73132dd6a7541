"""What the tests of the catalog speak with it by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2, import_pb2, model_pb2, upload_pb2
from reeltune.catalog.v1 import dataset_service_pb2 as ds
from reeltune.catalog.v1 import import_service_pb2 as im
from reeltune.catalog.v1 import model_service_pb2 as ms
from reeltune.catalog.v1 import upload_service_pb2 as us
from reeltune.catalog.v1.clip_service_pb2_grpc import ClipServiceStub
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.import_service_pb2_grpc import ImportServiceStub
from reeltune.catalog.v1.model_service_pb2_grpc import ModelServiceStub
from reeltune.catalog.v1.sample_service_pb2_grpc import SampleServiceStub
from reeltune.catalog.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from reeltune.catalog.v1.storage_service_pb2_grpc import StorageServiceStub
from reeltune.catalog.v1.upload_batch_service_pb2_grpc import UploadBatchServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub
from reeltune.catalog.v1.usage_service_pb2_grpc import UsageServiceStub
from reeltune.catalog.v1.version_service_pb2_grpc import VersionServiceStub

from catalog_svc.bootstrap import Stores
from catalog_svc.settings import CatalogSettings
from meshkit.blob import BlobStore
from meshkit.postgres import Pool
from meshkit.rpc.failure import Failure
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import Served, TokenMint

Metadata = tuple[tuple[str, str], ...]
ALICE = "usr_alice"
BOB = "usr_bob"


@dataclass(slots=True)
class CatalogMesh:
    """A running catalog service and what a test needs to speak with it."""

    served: Served
    settings: CatalogSettings
    pool: Pool
    blobs: BlobStore
    stores: Stores
    tokens: TokenMint
    http: httpx.AsyncClient
    services: AsyncExitStack
    """Closing it stops the background tasks, as a stop of the service does."""

    @property
    def datasets(self) -> DatasetServiceStub:
        return DatasetServiceStub(self.served.channel)

    @property
    def models(self) -> ModelServiceStub:
        return ModelServiceStub(self.served.channel)

    @property
    def uploads(self) -> UploadServiceStub:
        return UploadServiceStub(self.served.channel)

    @property
    def batches(self) -> UploadBatchServiceStub:
        return UploadBatchServiceStub(self.served.channel)

    @property
    def clips(self) -> ClipServiceStub:
        return ClipServiceStub(self.served.channel)

    @property
    def samples(self) -> SampleServiceStub:
        return SampleServiceStub(self.served.channel)

    @property
    def versions(self) -> VersionServiceStub:
        return VersionServiceStub(self.served.channel)

    @property
    def usage(self) -> UsageServiceStub:
        return UsageServiceStub(self.served.channel)

    @property
    def snapshots(self) -> SnapshotServiceStub:
        return SnapshotServiceStub(self.served.channel)

    @property
    def imports(self) -> ImportServiceStub:
        return ImportServiceStub(self.served.channel)

    @property
    def storage(self) -> StorageServiceStub:
        return StorageServiceStub(self.served.channel)

    def as_user(self, user: str = ALICE) -> Metadata:
        return self.tokens.user(user)

    async def create_dataset(self, name: str = "clips", user: str = ALICE, **fields: Any) -> dataset_pb2.Dataset:
        request = ds.CreateDatasetRequest(name=name, **fields)
        return (await self.datasets.CreateDataset(request, metadata=self.as_user(user))).dataset

    async def create_model(self, name: str = "base", user: str = ALICE, **fields: Any) -> model_pb2.Model:
        request = ms.CreateModelRequest(name=name, **fields)
        return (await self.models.CreateModel(request, metadata=self.as_user(user))).model

    async def open_upload(
        self,
        parent_id: str,
        path: str,
        data: bytes,
        user: str = ALICE,
        *,
        accepts_headers: bool = False,
        **other: Any,
    ) -> upload_pb2.Upload:
        header = us.FileHeader(
            **{
                "parent_id": parent_id,
                "path": path,
                "size_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                **other,
            }
        )
        request = us.CreateUploadRequest(file=header, accepts_headers=accepts_headers)
        return (await self.uploads.CreateUpload(request, metadata=self.as_user(user))).upload

    async def put_parts(self, upload: upload_pb2.Upload, data: bytes) -> None:
        for part in upload.parts:
            body = data[part.offset_bytes : part.offset_bytes + part.size_bytes]
            response = await self.http.put(part.url, content=body, headers=dict(part.headers))
            assert response.status_code == 200, response.text

    async def complete(self, upload_id: str, user: str = ALICE) -> upload_pb2.StoredFile:
        request = us.CompleteUploadRequest(upload_id=upload_id)
        return (await self.uploads.CompleteUpload(request, metadata=self.as_user(user))).file

    async def put(self, parent_id: str, path: str, data: bytes, user: str = ALICE) -> None:
        """Uploads one file by presigned URLs."""
        upload = await self.open_upload(parent_id, path, data, user)
        if not upload.complete:
            await self.put_parts(upload, data)
            await self.complete(upload.id, user)

    async def put_all(self, parent_id: str, files: Mapping[str, bytes], user: str = ALICE) -> None:
        for path, data in files.items():
            await self.put(parent_id, path, data, user)

    async def validated(self, dataset_id: str, user: str = ALICE) -> dataset_pb2.Dataset:
        """Validates a dataset and watches it to its end."""
        metadata = self.as_user(user)
        await self.datasets.ValidateDataset(ds.ValidateDatasetRequest(dataset_id=dataset_id), metadata=metadata)
        watch = self.datasets.WatchDataset(ds.WatchDatasetRequest(dataset_id=dataset_id), metadata=metadata, timeout=60)
        last = None
        async for message in watch:
            last = message.dataset
        assert last is not None
        return last

    async def begin_import(self, parent_id: str, user: str = ALICE, **source: Any) -> import_pb2.Import:
        """Begins an import from a source given by its name, such as `url=import_pb2.UrlSource(…)`."""
        request = im.CreateImportRequest(parent_id=parent_id, source=import_pb2.ImportSource(**source))
        return (await self.imports.CreateImport(request, metadata=self.as_user(user))).data_import

    async def ended_import(self, import_id: str, user: str = ALICE) -> import_pb2.Import:
        """Watches an import to its end."""
        request = im.WatchImportRequest(import_id=import_id)
        last = None
        async for message in self.imports.WatchImport(request, metadata=self.as_user(user), timeout=40):
            last = message.data_import
        assert last is not None
        return last

    async def imported(self, parent_id: str, user: str = ALICE, **source: Any) -> import_pb2.Import:
        """Imports, and watches it to its end."""
        return await self.ended_import((await self.begin_import(parent_id, user, **source)).id, user)

    async def import_errors(self, import_id: str, user: str = ALICE) -> dict[str, str]:
        """Lists the reasons why files were given up, by path."""
        request = im.ListImportErrorsRequest(import_id=import_id)
        response = await self.imports.ListImportErrors(request, metadata=self.as_user(user))
        return {error.path: error.reason for error in response.errors}

    async def paths(self, parent_id: str, user: str = ALICE) -> list[str]:
        """Lists the paths of the files in place."""
        request = us.ListFilesRequest(parent_id=parent_id, page_size=1000)
        response = await self.uploads.ListFiles(request, metadata=self.as_user(user))
        return [file.path for file in response.files]

    async def validated_model(self, model_id: str, user: str = ALICE) -> model_pb2.Model:
        """Validates a model and watches it to its end."""
        metadata = self.as_user(user)
        await self.models.ValidateModel(ms.ValidateModelRequest(model_id=model_id), metadata=metadata)
        watch = self.models.WatchModel(ms.WatchModelRequest(model_id=model_id), metadata=metadata, timeout=60)
        last = None
        async for message in watch:
            last = message.model
        assert last is not None
        return last

    async def ready_dataset(self, files: Mapping[str, bytes], user: str = ALICE, **fields: Any) -> dataset_pb2.Dataset:
        created = await self.create_dataset(user=user, **fields)
        await self.put_all(created.id, files, user)
        ready = await self.validated(created.id, user)
        assert ready.state == dataset_pb2.DATASET_STATE_READY, await self.issues(created.id, user)
        return ready

    async def issues(self, dataset_id: str, user: str = ALICE) -> list[tuple[str, str, int]]:
        """Lists the issues of a dataset as (reason, file, row)."""
        request = content.ListDatasetIssuesRequest(dataset_id=dataset_id, page_size=1000)
        response = await self.datasets.ListDatasetIssues(request, metadata=self.as_user(user))
        return [(issue.reason, issue.file, issue.row) for issue in response.issues]


Start = Callable[..., Awaitable[CatalogMesh]]


async def refused(call: Awaitable[Any]) -> Failure:
    """Returns the failure that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_from_rpc_error(caught.value)


async def collected(stream: AsyncIterator[Any]) -> list[Any]:
    """Reads a stream to its end."""
    return [message async for message in stream]


def tiny_safetensors(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """Returns a safetensors file of float32 zeros with these shapes."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in tensors.items():
        size = 4
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(offset)


def model_files() -> dict[str, bytes]:
    """Returns the files of a small, sound model."""
    config = {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {"max_position_embeddings": 4096},
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": tiny_safetensors({"a.weight": (4, 8), "b.weight": (3,)}),
        "tokenizer.json": json.dumps({"model": {"vocab": {"auto_map": 1, "the": 2}}}).encode(),
        "tokenizer_config.json": b"{}",
        "preprocessor_config.json": b"{}",
        "video_preprocessor_config.json": json.dumps({"max_frames": 768}).encode(),
    }
