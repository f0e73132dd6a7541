"""The life cycle in words and as a diagram, from the table itself."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_svc.domain.job import FINAL_STATES, JobState, StateReason
from scheduler_svc.domain.lifecycle import RULES, Rule

_EXPLAINED = [reason for reason in StateReason if reason is not StateReason.UNSPECIFIED]


def markdown_table() -> str:
    """Returns the table of changes in Markdown."""
    head = ["| from | to | who | reason | guard | in the same transaction |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(rule) for rule in RULES)])


def mermaid_diagram() -> str:
    """Returns the states and their changes as a Mermaid diagram."""
    lines = ["stateDiagram-v2"]
    for source, target, label in _arrows():
        lines.append(f"    {source or '[*]'} --> {target}: {label}")
    lines.extend(f"    {state} --> [*]" for state in JobState if state in FINAL_STATES)
    return "\n".join(lines)


def _row(rule: Rule) -> str:
    reasons = [f"`{reason}`" for reason in _EXPLAINED if reason in rule.reasons]
    if reasons and StateReason.UNSPECIFIED in rule.reasons:
        reasons.insert(0, "–")  # what has no reason is the rule, the others are special cases of it
    cells = [
        ", ".join(source or "–" for source in rule.sources),
        rule.target.value,
        rule.actor.value,
        _join(reasons),
        _join([guard.value for guard in rule.guards]),
        _join(["event", *(effect.value for effect in rule.effects)]),
    ]
    return f"| {' | '.join(cells)} |"


def _join(parts: Sequence[str]) -> str:
    return ", ".join(parts) or "–"


def _arrows() -> list[tuple[JobState | None, JobState, str]]:
    """One arrow for each pair of states, labelled with everybody who can make the change."""
    actors: dict[tuple[JobState | None, JobState], dict[str, None]] = {}
    for rule in RULES:
        for source in rule.sources:
            actors.setdefault((source, rule.target), {})[rule.actor.value] = None
    return [(source, target, " or ".join(names)) for (source, target), names in actors.items()]
