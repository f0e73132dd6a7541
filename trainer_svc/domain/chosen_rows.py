"""Which rows of a dataset are asked about after training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer_svc.domain.errors import NoSuchRowsError

Row = Mapping[str, Any]

_ALIASES = {"validation": "eval", "val": "eval"}
_HELD_OUT = ("eval", "test")


def choose_rows(
    rows: Sequence[Row], split: str, *, limit: int, seed: int, may_be_trained: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """(the split that rows were taken from, the rows in their own order, as the training library's split `eval`).

    `split` empty: those held out: `eval`, or `test` where there are none; `may_be_trained`: or else `train`. `limit` 0:
    all; otherwise so many, chosen by seed and sample id, so that rows that are added to a dataset displace few.

    Raises:
        NoSuchRowsError: there are none.
    """
    wanted = [_named(split)] if split else [*_HELD_OUT, *(("train",) if may_be_trained else ())]
    for name in wanted:
        found = [row for row in rows if _named(row["split"]) == name]
        if found:
            return name, [{**row, "split": "eval"} for row in _some(found, limit, seed)]
    there = ", ".join(f"{name} ({count})" for name, count in Counter(_named(row["split"]) for row in rows).items())
    raise NoSuchRowsError(
        f"the dataset has no rows of the split {' or '.join(wanted)}; it has {there or 'none'}: name another split"
    )


def shown_clips(rows: Sequence[Row]) -> set[str]:
    """The paths, as rows name them, of all clips that they show."""
    return {part["uri"] for row in rows for part in _parts(row) if part["type"] == "video"}


def _named(split: str) -> str:
    return _ALIASES.get(split, split)


def _some(rows: Sequence[Row], limit: int, seed: int) -> Sequence[Row]:
    if not limit or limit >= len(rows):
        return rows
    chosen = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row['sample_id']}".encode()).digest())[:limit]
    kept = {row["sample_id"] for row in chosen}
    return [row for row in rows if row["sample_id"] in kept]


def _parts(row: Row) -> Iterator[Mapping[str, Any]]:
    for message in row["messages"]:
        yield from message["content"]
