"""A connection to a mesh: one channel, the stubs of every public service, and the token on every call."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import httpx
from reeltune.auth.v1.user_service_pb2_grpc import UserServiceStub
from reeltune.catalog.v1.clip_service_pb2_grpc import ClipServiceStub
from reeltune.catalog.v1.dataset_service_pb2_grpc import DatasetServiceStub
from reeltune.catalog.v1.import_service_pb2_grpc import ImportServiceStub
from reeltune.catalog.v1.model_service_pb2_grpc import ModelServiceStub
from reeltune.catalog.v1.sample_service_pb2_grpc import SampleServiceStub
from reeltune.catalog.v1.storage_service_pb2_grpc import StorageServiceStub
from reeltune.catalog.v1.upload_batch_service_pb2_grpc import UploadBatchServiceStub
from reeltune.catalog.v1.upload_service_pb2_grpc import UploadServiceStub
from reeltune.catalog.v1.usage_service_pb2_grpc import UsageServiceStub
from reeltune.catalog.v1.version_service_pb2_grpc import VersionServiceStub
from reeltune.scheduler.v1.estimate_service_pb2_grpc import EstimateServiceStub
from reeltune.scheduler.v1.post_training_service_pb2_grpc import PostTrainingServiceStub
from reeltune.scheduler.v1.preset_service_pb2_grpc import PresetServiceStub
from reeltune.scheduler.v1.quota_service_pb2_grpc import QuotaServiceStub
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub
from reeltune.scheduler.v1.use_service_pb2_grpc import UseServiceStub
from reeltune.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub
from reeltune.trainer.v1.inference_service_pb2_grpc import InferenceServiceStub

from reeltune_cli.client.credentials import CredentialStore, MemoryCredentials
from reeltune_cli.client.endpoint import Endpoint
from reeltune_cli.client.put_threads import PutThreads
from reeltune_cli.client.session import Session

UNARY_TIMEOUT_SECONDS = 30.0
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_PUBLIC = "/reeltune.auth.v1.AuthService/"
# Calls of ours are safe to repeat: those that change something carry a request id. Deletions in the catalog have none,
# and a repeated one would say that there is nothing to delete; a refresh token may be sent exactly twice.
_RETRY_POLICY: dict[str, Any] = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_ONCE = [
    {"service": "reeltune.catalog.v1.DatasetService", "method": "DeleteDataset"},
    {"service": "reeltune.catalog.v1.ModelService", "method": "DeleteModel"},
    {"service": "reeltune.catalog.v1.UploadService", "method": "DeleteFile"},
    {"service": "reeltune.catalog.v1.StorageService", "method": "CreateStorageLocation"},
    {"service": "reeltune.catalog.v1.StorageService", "method": "DeleteStorageLocation"},
]
_TWICE = [{"service": "reeltune.auth.v1.AuthService", "method": "RefreshSession"}]


class Client:
    """A client of one mesh. Use it as an async context manager; nothing is sent before the first call."""

    def __init__(self, endpoint: Endpoint, credentials: CredentialStore | None = None) -> None:
        self.endpoint = endpoint
        self._plain = _open_channel(endpoint, [])
        self.session = Session(self._plain, credentials or MemoryCredentials())
        self.channel = _open_channel(endpoint, _signed(self.session))
        self.users = UserServiceStub(self.channel)
        self.datasets = DatasetServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)
        self.clips = ClipServiceStub(self.channel)
        self.samples = SampleServiceStub(self.channel)
        self.uploads = UploadServiceStub(self.channel)
        self.upload_batches = UploadBatchServiceStub(self.channel)
        self.imports = ImportServiceStub(self.channel)
        self.storage = StorageServiceStub(self.channel)
        self.usage = UsageServiceStub(self.channel)
        self.versions = VersionServiceStub(self.channel)
        self.training = TrainingServiceStub(self.channel)
        self.post_training = PostTrainingServiceStub(self.channel)
        self.uses = UseServiceStub(self.channel)
        self.estimates = EstimateServiceStub(self.channel)
        self.workers = WorkerServiceStub(self.channel)
        self.quotas = QuotaServiceStub(self.channel)
        self.presets = PresetServiceStub(self.channel)
        self.inference = InferenceServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection."""
        await self.channel.close()
        await self._plain.close()

    def open_http(self) -> httpx.AsyncClient:
        """Returns an HTTP client for presigned URLs of this mesh."""
        return httpx.AsyncClient(
            verify=self._ssl_context(),
            timeout=httpx.Timeout(60, connect=10),
            limits=httpx.Limits(max_connections=16),
            # A proxy of the surroundings cannot reach this machine's own loopback.
            trust_env=not self.endpoint.is_loopback,
        )

    def open_put_threads(self, threads: int) -> PutThreads:
        """Returns what sends files to presigned URLs of this mesh, so many at once."""
        return PutThreads(threads, self._ssl_context(), uses_proxies=not self.endpoint.is_loopback)

    def _ssl_context(self) -> ssl.SSLContext:
        ca_file = self.endpoint.ca_file
        return ssl.create_default_context(cafile=str(ca_file)) if ca_file else httpx.create_ssl_context()


def _open_channel(endpoint: Endpoint, interceptors: list[grpc.aio.ClientInterceptor]) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0 if endpoint.is_loopback else 1),
        ("grpc.service_config", _service_config()),
    ]
    interceptors = [_Deadline(), *interceptors]
    if endpoint.plaintext:
        return grpc.aio.insecure_channel(endpoint.target, options=options, interceptors=interceptors)
    authority = endpoint.ca_file.read_bytes() if endpoint.ca_file else None
    credentials = grpc.ssl_channel_credentials(authority)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=options, interceptors=interceptors)


def _service_config() -> str:
    return json.dumps(
        {
            "methodConfig": [
                {"name": [{}], "retryPolicy": _RETRY_POLICY},
                {"name": _TWICE, "retryPolicy": {**_RETRY_POLICY, "maxAttempts": 2}},
                {"name": _ONCE},
            ]
        }
    )


class _Deadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives every unary call a deadline: without one, a call to a mesh that hangs would hang, too."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        timeout = client_call_details.timeout or UNARY_TIMEOUT_SECONDS
        return await continuation(_changed(client_call_details, timeout=timeout), request)


class _Signature:
    """Adds the access token to a call's metadata."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def sign(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if not _method_name(details).startswith(_PUBLIC):
            metadata.add("authorization", f"Bearer {await self._session.access_token()}")
        return _changed(details, metadata=metadata)


def _method_name(details: grpc.aio.ClientCallDetails) -> str:
    method: str | bytes = details.method
    return method.decode() if isinstance(method, bytes) else method


def _changed(
    details: grpc.aio.ClientCallDetails, *, timeout: float | None = None, metadata: grpc.aio.Metadata | None = None
) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout if timeout is None else timeout,
        metadata=details.metadata if metadata is None else metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


class _SignedUnaryUnary(_Signature, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(await self.sign(client_call_details), request)


class _SignedUnaryStream(_Signature, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(await self.sign(client_call_details), request)


class _SignedStreamUnary(_Signature, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(await self.sign(client_call_details), request_iterator)


def _signed(session: Session) -> list[grpc.aio.ClientInterceptor]:
    # grpc.aio takes each interceptor for one kind of call only, by its base class.
    return [_SignedUnaryUnary(session), _SignedUnaryStream(session), _SignedStreamUnary(session)]
