"""`dataset_info.json`, the side file of LLaMA-Factory: what a file calls its columns and speakers.

    {"my_set": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "turns", "videos": "clips"},
                "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A"},
                "media_root": "media"}}

`media_root`, which other trainers take on their command lines, is ours. Without `formatting`, `columns` and `tags` the
form is found by content.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from catalog_svc.domain import issue
from catalog_svc.domain.formats.format import Format
from catalog_svc.domain.formats.ms_swift import MS_SWIFT, PairKeys, read_pairs
from catalog_svc.domain.formats.sharegpt import SHAREGPT
from catalog_svc.domain.formats.tagged_chat import ChatKeys, read_chat
from catalog_svc.domain.issue import Issue, shown
from catalog_svc.domain.media_root import MediaRoot
from catalog_svc.domain.sample import Role

DATASET_INFO_NAME = "dataset_info.json"
MAX_INFO_BYTES = 1024 * 1024

_CHAT_COLUMNS = {"messages": "conversations", "videos": "videos", "system": "system", "tools": "tools"}
_PAIR_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "videos": "videos",
    "system": "system",
}
_SOURCES = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}
"""Where an entry says that its rows are."""
_KEY_TAGS = {"role_tag": "from", "content_tag": "value"}
_ROLE_TAGS = {
    "user_tag": ("human", Role.USER),
    "assistant_tag": ("gpt", Role.ASSISTANT),
    "system_tag": ("system", Role.SYSTEM),
    "observation_tag": ("observation", Role.USER),
    "function_tag": ("function_call", Role.ASSISTANT),
}


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is told about an annotation file from outside."""

    file_name: str | None = None
    """The annotation file; None: found by name."""
    media_root: MediaRoot = field(default_factory=MediaRoot)
    format: Format | None = None
    """The form of every row, whatever it looks like; None: found by content."""


def parse_dataset_info(data: bytes, paths: Collection[str]) -> DatasetInfo | Issue:
    """Returns what the side file tells about the dataset that has these files, or what is wrong with it."""
    try:
        return _parse(data, paths)
    except _BadInfo as bad:
        return issue.error("DATASET_INFO_INVALID", str(bad), bad.remedy, file=DATASET_INFO_NAME, field=bad.field)


class _BadInfo(ValueError):
    def __init__(self, field: str, what: str, remedy: str = "keep to LLaMA-Factory's form") -> None:
        super().__init__(what)
        self.field = field
        self.remedy = remedy


def _parse(data: bytes, paths: Collection[str]) -> DatasetInfo:
    try:
        info = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _BadInfo(
            "", f"the file is not JSON: {error}", "mend it, or remove it if the rows need no mapping"
        ) from error
    sets = (
        {str(name): entry for name, entry in info.items() if isinstance(entry, dict)} if isinstance(info, dict) else {}
    )
    here = {name: entry for name, entry in sets.items() if str(entry.get("file_name")) in paths}
    if not here:  # one that is told nothing but how to read speaks of the only file there is
        here = {name: entry for name, entry in sets.items() if not _SOURCES & entry.keys()}
    if len(here) != 1:
        what = f"{len(here)} of its {len(sets)} entries name an annotation file that is here"
        raise _BadInfo("", what, 'keep one entry: {"NAME": {"file_name": "annotations.json", …}}')
    ((name, entry),) = here.items()
    field = shown(name, 40)
    return DatasetInfo(
        file_name=_texts(entry, field, "file_name").get("file_name"),
        media_root=MediaRoot(_texts(entry, field, "media_root").get("media_root", "")),
        format=_format(entry, field),
    )


def _format(entry: Mapping[str, Any], field: str) -> Format | None:
    if not any(entry.get(key) for key in ("formatting", "columns", "tags")):
        return None
    formatting = entry.get("formatting") or ("sharegpt" if entry.get("tags") else "alpaca")
    if formatting == "sharegpt":
        return _chat(_mapping(entry, field, "columns", _CHAT_COLUMNS), _mapping(entry, field, "tags", _all_tags()))
    if formatting == "alpaca":
        return _pairs(_mapping(entry, field, "columns", _PAIR_COLUMNS))
    what = f"formatting is {shown(formatting, 40)!r}"
    raise _BadInfo(f"{field}.formatting", what, "use sharegpt or alpaca, or leave it out if the form is another one")


def _chat(columns: Mapping[str, str], tags: Mapping[str, str]) -> Format:
    keys = ChatKeys(
        turns=columns["messages"],
        role=tags["role_tag"],
        text=tags["content_tag"],
        roles={tags[tag]: role for tag, (_, role) in _ROLE_TAGS.items()},
        clips=columns["videos"],
        system=columns["system"],
    )
    shape = f"{keys.turns} of {keys.role} and {keys.text}, with {keys.clips} beside them"
    return replace(
        SHAREGPT, shape=shape, fits=lambda row: keys.turns in row, read=partial(read_chat, keys=keys), writer=None
    )


def _pairs(columns: Mapping[str, str]) -> Format:
    keys = PairKeys(
        question=(columns["prompt"], columns["query"]),
        answer=columns["response"],
        history=columns["history"],
        clips=columns["videos"],
        system=columns["system"],
    )
    shape = f"{keys.question[0]} and {keys.answer}, with {keys.clips} beside them"
    return replace(
        MS_SWIFT,
        shape=shape,
        fits=lambda row: keys.question[0] in row,
        read=partial(read_pairs, keys=keys),
        writer=None,
    )


def _all_tags() -> dict[str, str]:
    return {**_KEY_TAGS, **{tag: word for tag, (word, _) in _ROLE_TAGS.items()}}


def _mapping(entry: Mapping[str, Any], field: str, key: str, defaults: Mapping[str, str]) -> dict[str, str]:
    given = entry.get(key) or {}
    if not isinstance(given, dict):
        raise _BadInfo(f"{field}.{key}", f"{key} is no object", f'write "{key}": {{"{next(iter(defaults))}": …}}')
    return {**defaults, **_texts(given, f"{field}.{key}", *defaults)}


def _texts(entry: Mapping[str, Any], field: str, *names: str) -> dict[str, str]:
    """Returns those of the named values that are given; what has another name is not ours to judge."""
    for name in names:
        if not isinstance(entry.get(name, ""), str | None):
            raise _BadInfo(f"{field}.{name}", f"{name} is {shown(entry[name], 40)!r}, not a text", "give a text")
    return {name: entry[name] for name in names if entry.get(name)}
