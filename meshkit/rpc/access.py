"""Which callers an rpc admits: read from the `(reeltune.access.v1.callers)` option in its contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from reeltune.access.v1 import access_pb2

from meshkit.auth.principal import Caller

_ANYONE = frozenset({Caller.ANYONE})

PUBLIC_SERVICES: Mapping[str, tuple[str, ...]] = {
    "grpc.health.v1.Health": ("Check", "Watch", "List"),
    "grpc.reflection.v1alpha.ServerReflection": ("ServerReflectionInfo",),
    "grpc.reflection.v1.ServerReflection": ("ServerReflectionInfo",),
}
"""Standard services whose contracts cannot carry our option; public, as their names are listed here."""


class AccessUndeclared(Exception):
    """An rpc's contract does not say who may call it, so the server is not built."""


def access_policy(service_names: Iterable[str]) -> dict[str, frozenset[Caller]]:
    """Returns, by full method path (`/package.Service/Rpc`), the callers that each rpc of these services admits.

    Raises:
        AccessUndeclared: an rpc has no `callers` option, or names CALLER_UNSPECIFIED.
    """
    policy: dict[str, frozenset[Caller]] = {}
    for name in service_names:
        if name in PUBLIC_SERVICES:
            policy.update({f"/{name}/{rpc}": _ANYONE for rpc in PUBLIC_SERVICES[name]})
        else:
            policy.update(_policy_of(find_service(name)))
    return policy


def find_service(name: str) -> ServiceDescriptor:
    """Returns a service's descriptor from the default pool, where generated code puts it on import.

    Raises:
        AccessUndeclared: no generated module of that service has been imported.
    """
    try:
        return descriptor_pool.Default().FindServiceByName(name)
    except KeyError as error:
        raise AccessUndeclared(
            f"service {name} is not in the descriptor pool: import its generated _pb2 module"
        ) from error


def _policy_of(service: ServiceDescriptor) -> dict[str, frozenset[Caller]]:
    policy = {}
    for method in service.methods:
        numbers = method.GetOptions().Extensions[access_pb2.callers]
        if not numbers or access_pb2.CALLER_UNSPECIFIED in numbers:
            raise AccessUndeclared(
                f"rpc {service.full_name}.{method.name} does not say who may call it: "
                "add `option (reeltune.access.v1.callers) = CALLER_…;` to its contract"
            )
        policy[f"/{service.full_name}/{method.name}"] = frozenset(Caller(number) for number in numbers)
    return policy
