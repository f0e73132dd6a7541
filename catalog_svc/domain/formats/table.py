"""All formats of annotation files."""

from __future__ import annotations

from catalog_svc.domain.formats.columns import COLUMNS
from catalog_svc.domain.formats.content_parts import CONTENT_PARTS
from catalog_svc.domain.formats.format import Format, RowValue
from catalog_svc.domain.formats.gemini import GEMINI
from catalog_svc.domain.formats.llava import LLAVA
from catalog_svc.domain.formats.ms_swift import MS_SWIFT
from catalog_svc.domain.formats.nova import NOVA
from catalog_svc.domain.formats.openai_messages import OPENAI_MESSAGES
from catalog_svc.domain.formats.sharegpt import SHAREGPT

# A row is of the first format that it fits, so what is special stands before what is general: Nova and content parts
# are messages too, and LLaVA's conversations are ShareGPT's.
FORMATS: tuple[Format, ...] = (
    NOVA,
    CONTENT_PARTS,
    OPENAI_MESSAGES,
    LLAVA,
    SHAREGPT,
    GEMINI,
    MS_SWIFT,
    COLUMNS,
)


def format_of(row: RowValue) -> Format | None:
    """Returns the format of a row, or None if it has none of the known forms."""
    return next((known for known in FORMATS if known.fits(row)), None)
