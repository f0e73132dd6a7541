"""A service with every kind of rpc, generated from its contract for the session and served with all interceptors."""

from __future__ import annotations

import importlib
import sys
from importlib import resources
from pathlib import Path

import pytest
from grpc_tools import protoc

from tests.rpc.meshkit.echo_service import Echo, EchoServicer

CONTRACTS = Path(__file__).parent / "contracts"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Echo:
    out = tmp_path_factory.mktemp("generated")
    code = protoc.main(
        [
            "protoc",
            f"-I{CONTRACTS}",
            # The well-known types, which the protoc of grpcio-tools carries as a resource.
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"-I{ROOT / 'proto'}",
            f"-I{ROOT / 'third_party' / 'protovalidate'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            str(CONTRACTS / "meshkit_test/v1/echo.proto"),
        ]
    )
    assert code == 0
    sys.path.insert(0, str(out))
    importlib.invalidate_caches()
    return Echo(
        pb=importlib.import_module("meshkit_test.v1.echo_pb2"),
        grpc=importlib.import_module("meshkit_test.v1.echo_pb2_grpc"),
    )


@pytest.fixture
def servicer(echo: Echo) -> EchoServicer:
    return EchoServicer(echo)
