"""Where TLS is mutual: every call of a service is in the table of the one that it calls, and nothing else is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from meshkit.rpc.access import find_service
from reeltune_cli.stack.edge_contract import EXPOSED_SERVICES, HIDDEN_SERVICES

ROOT = Path(__file__).parents[2]
SERVICES = ("auth", "catalog", "scheduler", "trainer")
_NAMES = {
    name.rpartition(".")[2]: name for name in (*HIDDEN_SERVICES, *(n for ns in EXPOSED_SERVICES.values() for n in ns))
}


def _calls(service: str) -> set[str]:
    """Returns the paths of the rpcs that a service's clients call."""
    found = set()
    files = sorted((ROOT / f"{service}_svc" / "clients").rglob("*.py"))
    if "meshkit.auth.auth_client" in (ROOT / f"{service}_svc" / "bootstrap.py").read_text():
        files.append(ROOT / "meshkit" / "auth" / "auth_client.py")
    for file in files:
        text = file.read_text()
        for stub in set(re.findall(r"\b(\w+Service)(?:Async)?Stub\b", text)):
            contract = _NAMES[stub]
            importlib.import_module(_module(contract))
            found |= {
                f"/{contract}/{method.name}"
                for method in find_service(contract).methods
                if re.search(rf"\.{method.name}\(", text)
            }
    return found


def _module(contract: str) -> str:
    package, _, name = contract.rpartition(".")
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return f"{package}.{snake}_pb2"


def _admits(peers: frozenset[str], path: str) -> bool:
    return path in peers or path.split("/")[1] in peers


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_calls_it_may_call(service: str) -> None:
    calls = _calls(service)
    assert calls or service == "auth"
    for path in calls:
        called = path.split(".")[1]
        peers = importlib.import_module(f"{called}_svc.rpc.peers").PEERS
        assert _admits(peers.get(service, frozenset()), path), (
            f"{called}_svc/rpc/peers.py does not let {service} call {path}"
        )


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_may_call_what_it_does_not(service: str) -> None:
    for identity, targets in importlib.import_module(f"{service}_svc.rpc.peers").PEERS.items():
        if identity not in SERVICES:
            continue
        calls = _calls(identity)
        for target in targets:
            assert any(path == target or path.startswith(f"/{target}/") for path in calls), (identity, target)
