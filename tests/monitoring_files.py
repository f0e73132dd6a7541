"""What the files for monitoring ask for, and what the documentation says there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "prometheus" / "rules"
DASHBOARDS = MONITORING / "grafana" / "dashboards"
OPERATIONS = ROOT / "docs" / "operations.md"

_SCRAPED = frozenset({"job", "instance", "service"})
"""Labels that every target has."""
_GIVEN = re.compile(r"up|ALERTS|process_\w+|python_\w+|envoy_\w+")
"""What Prometheus, its client and the edge bring along."""
_ROW = re.compile(r"^\| `((?:reeltune|rpc)_\w+)` \|([^|]*)\|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A metric that some expression asks for."""

    where: str
    name: str
    labels: frozenset[str]


def rules() -> Iterator[dict[str, Any]]:
    """Yields every rule, alerts and recordings."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def recorded() -> dict[str, str]:
    """Returns what rules record, with one of the expressions of each."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the panels of all dashboards, each with its dashboard's file name."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            yield path.name, panel


def expressions() -> Iterator[tuple[str, str]]:
    """Yields every PromQL expression, with where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for name, panel in panels():
        for target in panel.get("targets", ()):
            if target["datasource"]["type"] == "prometheus":
                yield f"{name}: {panel['title']}", target["expr"].replace("$instance", ".*")


def asked() -> list[Asked]:
    """Returns all metrics of ours that are asked for, with the labels that are asked of them."""
    found: list[Asked] = []
    known = recorded()
    for where, expression in expressions():

        def visit(node: Any, where: str = where) -> bool:
            if isinstance(node, promql_parser.VectorSelector) and not _GIVEN.fullmatch(node.name):
                labels = frozenset(matcher.name for matcher in node.matchers.matchers)
                if node.name in known:
                    return True
                found.append(Asked(where, node.name, labels - _SCRAPED))
            return True

        promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def asked_of_the_edge() -> set[str]:
    """Returns the names of Envoy's metrics that are asked for."""
    return {name for _, expression in expressions() for name in re.findall(r"\benvoy_\w+(?=\{)", expression)}


def documented() -> dict[str, frozenset[str]]:
    """Returns the metrics of the documentation's tables, with their labels."""
    return {
        name: frozenset(re.findall(r"`(\w+)`", labels)) for name, labels in _ROW.findall(OPERATIONS.read_text("utf-8"))
    }


def is_there(asked_for: Asked, there: Mapping[str, frozenset[str]]) -> bool:
    """Tells whether what is asked for is among the metrics that are there, by the names of their families."""
    base, _, suffix = asked_for.name.rpartition("_")
    if suffix in ("bucket", "count", "sum") and base in there:
        return asked_for.labels <= there[base] | ({"le"} if suffix == "bucket" else set())
    return asked_for.name in there and asked_for.labels <= there[asked_for.name]
