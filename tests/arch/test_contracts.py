"""The contracts keep their own rules, and the services keep the contracts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from reeltune.access.v1 import access_pb2

from tests.contract_services import contract_services

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "proto").rglob("*.proto"))
SERVICERS = {"auth": "auth_svc", "catalog": "catalog_svc", "scheduler": "scheduler_svc", "trainer": "trainer_svc"}


def methods() -> list[MethodDescriptor]:
    return [method for service in contract_services() for method in service.methods]


def test_there_are_services_of_all_four_areas() -> None:
    assert {service.full_name.split(".")[1] for service in contract_services()} == set(SERVICERS)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)
def test_every_rpc_names_its_callers(method: MethodDescriptor) -> None:
    callers = list(method.GetOptions().Extensions[access_pb2.callers])

    assert callers, f"{method.full_name} has no (reeltune.access.v1.callers) option: say who may call it"
    assert access_pb2.CALLER_UNSPECIFIED not in callers
    assert access_pb2.CALLER_ANYONE not in callers or len(callers) == 1


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_contract_file_stays_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("service", contract_services(), ids=lambda service: service.full_name)
def test_every_rpc_is_implemented(service: ServiceDescriptor) -> None:
    """No rpc answers UNIMPLEMENTED: some servicer overrides each method of the generated base."""
    stub_module = importlib.import_module(service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
    base = getattr(stub_module, f"{service.name}Servicer")
    package = importlib.import_module(SERVICERS[service.full_name.split(".")[1]] + ".rpc")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

    # By name: a dataclass with slots is made twice, and its first making lingers.
    found = {cls.__name__: cls for cls in base.__subclasses__() if cls.__module__.startswith(package.__name__)}
    assert len(found) == 1, f"{service.full_name}: {sorted(found)}"
    (implementation,) = found.values()
    missing = [
        m.name for m in service.methods if inspect.getattr_static(implementation, m.name) is base.__dict__[m.name]
    ]
    assert not missing
