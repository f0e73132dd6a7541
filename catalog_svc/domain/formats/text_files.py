"""A folder of clips, each with a text file of the same name that says what it shows: `a.mp4` and `a.txt`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.clip import VIDEO_EXTENSIONS
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.formats.columns import CAPTION_PROMPT, say_pair
from catalog_svc.domain.formats.fields import MAX_TEXT_CHARACTERS, BadRow, read_text
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.issue import Issue, shown

TEXT_EXTENSION = ".txt"
_MAX_BYTES = 4 * MAX_TEXT_CHARACTERS


def pair_text_files(paths: Iterable[str]) -> tuple[Mapping[str, str], tuple[Issue, ...]]:
    """Returns the clip that each text file speaks of, by path, and what is wrong with the others that have one."""
    clips: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for path in sorted(paths):
        stem = path[: -len(extension(path))] if extension(path) else path
        if extension(path) in VIDEO_EXTENSIONS:
            clips[stem].append(path)
        elif extension(path) == TEXT_EXTENSION:
            texts[path] = stem
    pairs, issues = {}, []
    for path, stem in texts.items():
        named = clips.get(stem, [])
        if len(named) == 1:
            pairs[path] = named[0]
        elif named:
            what = f"the text may speak of {len(named)} clips: {', '.join(shown(clip, 40) for clip in named[:5])}"
            issues.append(issue.error("CLIP_AMBIGUOUS", what, "give each clip a name of its own", file=path))
    return pairs, tuple(issues)


def read_text_file(stream: BinaryIO, clip: str, builder: RowBuilder) -> None:
    """Tells a clip and what its text file says to the builder; raises BadRow."""
    data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise BadRow("ROW_TOO_LONG", "", f"the text has more than {MAX_TEXT_CHARACTERS} characters", "shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the text is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})"
        raise BadRow("ENCODING_INVALID", "", what, "save the file as UTF-8 and upload it again") from error
    answer = read_text(text, "the text").strip()
    say_pair(builder, builder.clip(clip, ""), CAPTION_PROMPT, answer, ("", ""))
