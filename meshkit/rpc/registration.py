"""Servicers on their way into a server, and what can be known of them before it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc


@dataclass(frozen=True, slots=True)
class ServicerRegistration:
    """A servicer and the generated function that adds it: `ServicerRegistration(add_XServicer_to_server, servicer)`."""

    add: Callable[[Any, Any], None]
    servicer: object


def service_names(registrations: Iterable[ServicerRegistration]) -> list[str]:
    """Returns the full names of the services, as the generated functions register them."""
    recorder = _Recorder()
    for registration in registrations:
        registration.add(registration.servicer, cast(grpc.aio.Server, recorder))
    return recorder.names


def add_to_server(registration: ServicerRegistration, server: grpc.aio.Server) -> None:
    """Adds a servicer, to be found by the name of a call's method.

    Generated code registers each method with grpc's core as well. For those grpc.aio keeps an open request each, and
    with every call waits anew for all of them: with thirty rpcs that costs more than what core saves.
    """
    registration.add(registration.servicer, cast(grpc.aio.Server, _ByName(server)))


class _ByName:
    """Stands in for the server while a generated `add_…_to_server` registers a service."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Leaves the methods to the generic handler of their service, which knows them, too."""


class _Recorder:
    """Stands in for the server while a generated `add_…_to_server` tells which service it would register."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        for handler in handlers:
            name = handler.service_name() if isinstance(handler, grpc.ServiceRpcHandler) else None
            if name is None:
                raise TypeError(
                    f"{type(handler).__name__} does not name its service, so nobody can say who may call it"
                )
            self.names.append(name)

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Generated code calls this too, for the same service; the name is known already."""
