"""OpenAI messages with `videos` beside them; the same, one object a line, is what ms-swift calls its standard format.

{"messages": [{"role": "user", "content": "<video>Q"}, {"role": "assistant", "content": "A"}], "videos": ["a.mp4"]}
"""

from __future__ import annotations

from functools import partial
from typing import Any

from catalog_svc.domain.formats.format import Format, Layout, RowValue, Writer
from catalog_svc.domain.formats.tagged_chat import ChatKeys, read_chat, write_chat
from catalog_svc.domain.sample import AnnotationFormat, Role, Sample

_KEYS = ChatKeys(turns="messages", role="role", text="content", roles={role.value: role for role in Role})


def _fits(row: RowValue) -> bool:
    return "messages" in row


def _write(sample: Sample) -> dict[str, Any]:
    return write_chat(sample, _KEYS)


OPENAI_MESSAGES = Format(
    AnnotationFormat.OPENAI_MESSAGES,
    shape="messages of role and content, with videos beside them",
    fits=_fits,
    read=partial(read_chat, keys=_KEYS),
    writer=Writer(Layout.JSON_ARRAY, _write),
)
