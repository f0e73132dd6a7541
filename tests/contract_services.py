"""The services of the contracts, found by their files: no list is kept that a new service could be missing from."""

from __future__ import annotations

import importlib
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

ROOT = Path(__file__).parents[1]


def contract_services(area: str = "*") -> list[ServiceDescriptor]:
    """Those of `proto/reeltune/{area}`: auth, catalog, scheduler or trainer; all of them unless one is named."""
    found: list[ServiceDescriptor] = []
    for path in sorted((ROOT / "proto").glob(f"reeltune/{area}/**/*_service.proto")):
        module = ".".join(path.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2"
        found += importlib.import_module(module).DESCRIPTOR.services_by_name.values()
    return found
