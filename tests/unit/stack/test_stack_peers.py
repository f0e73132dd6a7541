"""The edge may call what it lets clients in to, and nothing else; and every table fits the service that holds it."""

from __future__ import annotations

import importlib

import pytest

from reeltune_cli.stack.edge_contract import EXPOSED_SERVICES


@pytest.mark.parametrize("service", EXPOSED_SERVICES)
def test_the_edge_may_call_what_it_exposes(service: str) -> None:
    peers = importlib.import_module(f"{service}_svc.rpc.peers").PEERS
    assert peers["edge"] == set(EXPOSED_SERVICES[service])
