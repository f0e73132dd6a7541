"""The options of `reeltune cluster prepare`, kept with the authority, so that to prepare again needs none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reeltune_cli.stack.folder import write_private
from reeltune_cli.stack.prepared import AUTHORITY, Preparation, prepare

_FILE = "options.json"
_COMMAND_OPTIONS = {"database": "--database", "edge_names": "--edge-name"}


def prepare_as_before(out: Path, given: Mapping[str, Any], *, change: bool) -> Preparation:
    """Prepares with the options that were given, and in place of others those of the last time; returns all of them.

    `given` holds fields of `Preparation`; None is not given. With `change` an option may be another than last time.

    Raises:
        ValueError: an option is another than last time and not to be changed, the kept ones cannot be read, or what
            `prepare` raises, as its other errors.
    """
    path = out / AUTHORITY / _FILE
    former = _read(path, out)
    said = {name: value for name, value in given.items() if value is not None}
    wanted = replace(former or Preparation(out=out), **said)
    other = [name for name in said if former and getattr(former, name) != getattr(wanted, name)]
    if former and other and not change:
        told = "; ".join(
            f"{_COMMAND_OPTIONS.get(name, '--' + name.replace('_', '-'))} was {_shown(getattr(former, name))}"
            for name in other
        )
        raise ValueError(f"{out} was prepared with other options: {told}; leave them out, or add --change")
    prepare(wanted, former)
    # Last: what was cut short is done again from what held before.
    kept = asdict(wanted)
    del kept["out"]
    write_private(path, kept)
    return wanted


def _read(path: Path, out: Path) -> Preparation | None:
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        return Preparation(out=out, **{**kept, "edge_names": tuple(kept["edge_names"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it, and name every option anew") from error


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value or "not given")
