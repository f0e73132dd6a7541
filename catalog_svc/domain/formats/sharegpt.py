"""ShareGPT with `videos`, as LLaMA-Factory reads it.

    {"conversations": [{"from": "human", "value": "<video>Q"}, {"from": "gpt", "value": "A"}],
     "videos": ["a.mp4"], "system": "S"}

What a tool was asked is the assistant's turn, what it answered the user's, as in LLaMA-Factory. Other names of columns
and roles are mapped by `dataset_info.json`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from catalog_svc.domain.formats.format import Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.tagged_chat import ChatKeys, read_chat, write_chat
from catalog_svc.domain.sample import AnnotationFormat, Role, Sample

SHAREGPT_ROLES = {
    "human": Role.USER,
    "gpt": Role.ASSISTANT,
    "system": Role.SYSTEM,
    "observation": Role.USER,
    "function_call": Role.ASSISTANT,
}
SHAREGPT_KEYS = ChatKeys(turns="conversations", role="from", text="value", roles=SHAREGPT_ROLES)


def _fits(row: RowValue) -> bool:
    return "conversations" in row


def _write(sample: Sample) -> dict[str, Any]:
    return write_chat(sample, SHAREGPT_KEYS)


SHAREGPT = Format(
    AnnotationFormat.SHAREGPT,
    shape="conversations of from and value, with videos beside them",
    fits=_fits,
    read=partial(read_chat, keys=SHAREGPT_KEYS),
    writer=Writer(Layout.JSON_ARRAY, _write),
)
