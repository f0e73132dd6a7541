"""The form of every benchmark: figures for people, then one JSON line for programs."""

from __future__ import annotations

import ast
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found."""

    name: str
    ratio: float
    """Ours to the baseline, both of the same run."""
    goal: float
    """What `ratio` should be."""
    higher_is_better: bool
    figures: Mapping[str, float]
    """The raw figures by name; units stand in the names."""

    @property
    def holds(self) -> bool:
        """Whether the goal was met."""
        return self.ratio >= self.goal if self.higher_is_better else self.ratio <= self.goal

    def as_dict(self) -> dict[str, object]:
        """The JSON object of the last line."""
        raw = {key: round(value, 6) for key, value in self.figures.items()}
        return {"name": self.name, "ratio": round(self.ratio, 4), "goal": self.goal, "holds": self.holds, "raw": raw}


def print_result(result: Result) -> None:
    """Prints the figures, then the JSON object alone on the last line."""
    width = max(len(name) for name in result.figures)
    for name, value in result.figures.items():
        print(f"{name:<{width}}  {value:,.4g}")
    print(json.dumps(result.as_dict()), flush=True)


def write_page(results: list[dict[str, object]], page: Path) -> None:
    """Writes `page` from the benchmarks' JSON objects."""
    lines = [
        "# Benchmarks",
        "",
        "Each figure is a ratio against a baseline measured in the same run, because absolute times say more about the",
        "machine than about Reeltune.",
        "Run them with `make bench`, or one with `make bench NAME=rpc_edge`.",
        "",
        f"Last run: {datetime.now(UTC):%Y-%m-%d}, {_machine()}.",
        "",
        "| benchmark | ratio | goal | holds |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{r['name']}` | {r['ratio']} | {r['goal']} | {'yes' if r['holds'] else '**no**'} |" for r in results]
    for result in results:
        name, raw = str(result["name"]), result["raw"]
        assert isinstance(raw, dict)
        lines += ["", f"## {name}", "", f"`python -m benchmarks.{name}`", "", explanation(name), ""]
        lines += ["| figure | value |", "|---|---|", *(f"| {key} | {value:,.4g} |" for key, value in raw.items())]
    page.write_text("\n".join(lines) + "\n")


def explanation(name: str) -> str:
    """What a benchmark measures against what: its module's docstring, read without importing it."""
    docstring = ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text())) or ""
    return docstring.partition(": ")[2]


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, no GPU"
