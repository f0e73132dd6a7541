"""What the contracts say about the edge: which rpcs it exposes, on which paths, to whom, and the descriptor set."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2
from reeltune.access.v1 import access_pb2

EXPOSED_SERVICES: Mapping[str, tuple[str, ...]] = {
    "auth": ("reeltune.auth.v1.AuthService", "reeltune.auth.v1.UserService"),
    "catalog": (
        "reeltune.catalog.v1.DatasetService",
        "reeltune.catalog.v1.ModelService",
        "reeltune.catalog.v1.UploadService",
        "reeltune.catalog.v1.UploadBatchService",
        "reeltune.catalog.v1.ImportService",
        "reeltune.catalog.v1.StorageService",
        "reeltune.catalog.v1.SampleService",
        "reeltune.catalog.v1.ClipService",
        "reeltune.catalog.v1.VersionService",
        "reeltune.catalog.v1.UsageService",
    ),
    "scheduler": (
        "reeltune.scheduler.v1.TrainingService",
        "reeltune.scheduler.v1.PostTrainingService",
        "reeltune.scheduler.v1.WorkerService",
        "reeltune.scheduler.v1.QuotaService",
        "reeltune.scheduler.v1.UseService",
        "reeltune.scheduler.v1.PresetService",
        "reeltune.scheduler.v1.EstimateService",
    ),
    "trainer": ("reeltune.trainer.v1.InferenceService",),
}
"""Services that the edge lets in, by the cluster that serves them. A service in neither table fails a test."""

HIDDEN_SERVICES = frozenset(
    {
        "reeltune.auth.v1.RevocationService",
        "reeltune.catalog.v1.SnapshotService",
        "reeltune.scheduler.v1.AttemptService",
        "reeltune.scheduler.v1.CheckpointService",
        "reeltune.scheduler.v1.SourceService",
        "reeltune.trainer.v1.TrainerService",
    }
)
"""Called by services, trainers and people on the same network, on the service's own port, never through the edge."""

_CONTRACT_MODULES = (
    "reeltune.auth.v1.auth_service_pb2",
    "reeltune.auth.v1.revocation_service_pb2",
    "reeltune.auth.v1.user_service_pb2",
    "reeltune.catalog.v1.dataset_service_pb2",
    "reeltune.catalog.v1.model_service_pb2",
    "reeltune.catalog.v1.upload_service_pb2",
    "reeltune.catalog.v1.upload_batch_service_pb2",
    "reeltune.catalog.v1.import_service_pb2",
    "reeltune.catalog.v1.storage_service_pb2",
    "reeltune.catalog.v1.sample_service_pb2",
    "reeltune.catalog.v1.clip_service_pb2",
    "reeltune.catalog.v1.version_service_pb2",
    "reeltune.catalog.v1.usage_service_pb2",
    "reeltune.scheduler.v1.training_service_pb2",
    "reeltune.scheduler.v1.post_training_service_pb2",
    "reeltune.scheduler.v1.worker_service_pb2",
    "reeltune.scheduler.v1.quota_service_pb2",
    "reeltune.scheduler.v1.use_service_pb2",
    "reeltune.scheduler.v1.preset_service_pb2",
    "reeltune.scheduler.v1.estimate_service_pb2",
    "reeltune.trainer.v1.inference_service_pb2",
)
_VARIABLE = re.compile(r"\{[^}=]+(?:=(?P<segments>[^}]*))?\}")


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """One HTTP method and path that calls an rpc with JSON."""

    method: str
    pattern: str
    """RE2 pattern of the path: `/v1/trainings/[^/]+/stop`."""
    response_field: str
    """JSON name of the response's field that alone makes the body (`response_body`); empty for the whole response."""


@dataclass(frozen=True, slots=True)
class ExposedRpc:
    """One rpc as the edge sees it."""

    full_name: str
    """`reeltune.auth.v1.AuthService.Login`"""
    cluster: str
    is_public: bool
    """Whether it may be called without a token."""
    is_client_stream: bool
    is_server_stream: bool
    path: str
    """The gRPC and gRPC-Web path: `/reeltune.auth.v1.AuthService/Login`."""
    http_bindings: tuple[HttpBinding, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """All its paths as RE2 patterns."""
        return (re.escape(self.path), *(binding.pattern for binding in self.http_bindings))


def exposed_rpcs() -> list[ExposedRpc]:
    """Returns every rpc that the edge lets in, read from the contracts.

    Raises:
        ValueError: an rpc does not say who may call it, or shares a path with one that needs no token.
    """
    _import_contracts()
    pool = descriptor_pool.Default()
    rpcs = [
        _exposed_rpc(method, cluster)
        for cluster, services in EXPOSED_SERVICES.items()
        for service in services
        for method in pool.FindServiceByName(service).methods
    ]
    _check_public_paths(rpcs)
    return rpcs


def descriptor_set() -> bytes:
    """Returns the serialised FileDescriptorSet of the exposed services with all they import, dependencies first.

    The error details are in it as well, so that they print as JSON. Envoy refuses `response_body` in a contract (it
    knows it for HttpBody only), so that is taken out here and done by the edge's own filter.
    """
    _import_contracts()
    pool = descriptor_pool.Default()
    files: dict[str, FileDescriptor] = {}
    for service in (name for names in EXPOSED_SERVICES.values() for name in names):
        _collect(pool.FindServiceByName(service).file, files)
    _collect(error_details_pb2.DESCRIPTOR, files)
    result = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(result.file.add())
    for file_proto in result.file:
        _adjust(file_proto)
    return result.SerializeToString()


def _adjust(file: descriptor_pb2.FileDescriptorProto) -> None:
    for method in (method for service in file.service for method in service.method):
        if method.options.HasExtension(annotations_pb2.http):
            rule = method.options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                binding.ClearField("response_body")
    for message in file.message_type:
        _fill_json_names(message, f"{file.package}.{message.name}")


def _fill_json_names(message: descriptor_pb2.DescriptorProto, full_name: str) -> None:
    # The compiler always writes them and readers rely on it; Python's copy leaves them out where the name implies them.
    known = descriptor_pool.Default().FindMessageTypeByName(full_name)
    for field in message.field:
        field.json_name = known.fields_by_name[field.name].json_name
    for nested in message.nested_type:
        _fill_json_names(nested, f"{full_name}.{nested.name}")


def _import_contracts() -> None:
    # Generated modules put their descriptors into the default pool when they are imported.
    for module in _CONTRACT_MODULES:
        importlib.import_module(module)


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    if file.name in files:
        return
    for dependency in file.dependencies:
        _collect(dependency, files)
    files[file.name] = file


def _exposed_rpc(method: MethodDescriptor, cluster: str) -> ExposedRpc:
    callers = list(method.GetOptions().Extensions[access_pb2.callers])
    if not callers or access_pb2.CALLER_UNSPECIFIED in callers:
        raise ValueError(f"rpc {method.full_name} does not say who may call it: set (reeltune.access.v1.callers)")
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    return ExposedRpc(
        full_name=method.full_name,
        cluster=cluster,
        is_public=access_pb2.CALLER_ANYONE in callers,
        is_client_stream=method.client_streaming,
        is_server_stream=method.server_streaming,
        path=f"/{method.containing_service.full_name}/{method.name}",
        http_bindings=tuple(_http_bindings(rule, method)),
    )


def _http_bindings(rule: http_pb2.HttpRule, method: MethodDescriptor) -> Iterator[HttpBinding]:
    kind = rule.WhichOneof("pattern")
    if kind:
        verb, template = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind, getattr(rule, kind))
        body = rule.response_body
        field = method.output_type.fields_by_name[body].json_name if body else ""
        yield HttpBinding(verb.upper(), _pattern(template), field)
    for binding in rule.additional_bindings:
        yield from _http_bindings(binding, method)


def _pattern(template: str) -> str:
    """Turns a path template of google.api.http into an RE2 pattern."""
    parts, end = [], 0
    for variable in _VARIABLE.finditer(template):
        parts += [re.escape(template[end : variable.start()]), _segments(variable["segments"] or "*")]
        end = variable.end()
    return "".join((*parts, re.escape(template[end:])))


def _segments(segments: str) -> str:
    return "/".join({"*": "[^/]+", "**": ".+"}.get(segment, re.escape(segment)) for segment in segments.split("/"))


def _check_public_paths(rpcs: list[ExposedRpc]) -> None:
    # The rule that lets a request through without a token looks at the path alone.
    private = {pattern for rpc in rpcs if not rpc.is_public for pattern in rpc.patterns}
    for rpc in (rpc for rpc in rpcs if rpc.is_public):
        shared = private.intersection(rpc.patterns)
        if shared:
            raise ValueError(f"{rpc.full_name} is public and shares {min(shared)} with an rpc that needs a token")
        if any("[" in binding.pattern for binding in rpc.http_bindings):
            raise ValueError(f"{rpc.full_name} is public, so its paths must be fixed: a variable could match another's")
