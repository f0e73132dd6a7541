"""Tells a Prometheus on this machine where the mesh shows its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from meshkit.embedded import EnvoyServer
from reeltune_cli.stack.environment import SERVICES, StackPlan
from reeltune_cli.stack.folder import write_private
from reeltune_cli.stack.parts import Part


def write_metrics_targets(plan: StackPlan, parts: Mapping[str, Part]) -> None:
    """Writes the list in the form of `file_sd_configs`; to be called whenever the edge has started.

    The services keep their ports for as long as the data folder lives; the edge takes a free one each time.
    """
    targets = [_target(plan.target(f"{name}-metrics"), name) for name in SERVICES if name in parts]
    edge = parts["edge"].server
    assert isinstance(edge, EnvoyServer)
    # Of what it counts, only what has happened: else it tells some thousand zeros.
    where = {"__metrics_path__": "/stats/prometheus", "__param_usedonly": "true"}
    targets.append(_target(urlsplit(edge.admin_url).netloc, "edge", **where))
    path = plan.folder.metrics_targets
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(path, targets)


def _target(address: str, service: str, **labels: str) -> dict[str, object]:
    return {"targets": [address], "labels": {"service": service, **labels}}
