"""Annotation files: which they are, which form they have, and the samples in them. Pure: bytes in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from catalog_svc.domain import issue
from catalog_svc.domain.dataset_info import DATASET_INFO_NAME, DatasetInfo
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.formats.fields import BadRow, read_sample_id, read_split
from catalog_svc.domain.formats.format import Format
from catalog_svc.domain.formats.row_builder import RowBuilder
from catalog_svc.domain.formats.table import FORMATS, format_of
from catalog_svc.domain.formats.tags import read_tags
from catalog_svc.domain.formats.text_files import pair_text_files, read_text_file
from catalog_svc.domain.issue import Issue, shown
from catalog_svc.domain.media_root import MediaRoot
from catalog_svc.domain.record import Record
from catalog_svc.domain.records import read_records
from catalog_svc.domain.sample import (
    AnnotationFormat,
    Sample,
    SampleText,
    canonical_json,
    content_id,
    messages_to_json,
)

ANNOTATION_NAMES = ("annotations.csv", "annotations.jsonl", "annotations.json")
ANNOTATION_EXTENSIONS = frozenset({".csv", ".jsonl", ".json"})
MAX_FILE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AnnotationPlan:
    """Which files of a dataset say what its clips show."""

    file: str
    """The annotation file; empty where each clip has a text file of its own."""
    info: DatasetInfo = field(default_factory=DatasetInfo)
    clips_by_text: Mapping[str, str] = field(default_factory=dict)
    """The clip that each text file speaks of."""
    issues: tuple[Issue, ...] = ()

    def speaks_of_clips(self, path: str) -> bool:
        """Tells whether a file is one of these, and so no clip."""
        return path in (self.file, DATASET_INFO_NAME) or path in self.clips_by_text


@dataclass(frozen=True, slots=True)
class Row:
    """A sound row."""

    file: str
    number: int
    """Of its row in the file; 0 where the file is one row."""
    sample: Sample
    text: SampleText
    """The sample as it is stored."""
    clip_fields: tuple[str, ...]
    """For each clip that the sample shows, in order, the field that names it."""


def plan_annotations(sizes: Mapping[str, int], info: DatasetInfo) -> AnnotationPlan | Issue:
    """Returns which files say what the clips show, or what is wrong.

    It is the file that `dataset_info.json` names, or `annotations.csv`, `.jsonl` or `.json`, or else the only file with
    one of these extensions in the root, or else the text files that have the names of clips.

    Args:
        sizes: The lengths of the dataset's files in bytes, by path.
        info: What `dataset_info.json` says.
    """
    in_root = sorted(path for path in sizes if "/" not in path and path != DATASET_INFO_NAME)
    named = [path for path in in_root if path in ANNOTATION_NAMES]
    candidates = named or [path for path in in_root if extension(path) in ANNOTATION_EXTENSIONS]
    if info.file_name is not None:
        candidates = [info.file_name]
    if not candidates:
        return _plan_text_files(sizes, info)
    if len(candidates) > 1:
        listed = ", ".join(shown(path, 40) for path in candidates[:5])
        return issue.error(
            "ANNOTATIONS_AMBIGUOUS",
            f"there are {len(candidates)} annotation files: {listed}",
            "keep one and remove the others, or name one annotations.csv, annotations.jsonl or annotations.json",
        )
    (file,) = candidates
    if sizes[file] > MAX_FILE_BYTES:
        what = f"the file has {sizes[file]} bytes, at most {MAX_FILE_BYTES} are read"
        return issue.error("ANNOTATIONS_TOO_LARGE", what, "split the dataset in two", file=file)
    return AnnotationPlan(file, info)


def _plan_text_files(sizes: Mapping[str, int], info: DatasetInfo) -> AnnotationPlan | Issue:
    clips_by_text, issues = pair_text_files(sizes)
    if clips_by_text or issues:
        return AnnotationPlan("", info, clips_by_text, issues)
    return issue.error(
        "ANNOTATIONS_MISSING",
        "there is no annotation file",
        "upload annotations.csv with the columns video,caption or video,question,answer, or annotations.jsonl, "
        "or a text file for each clip: a.txt for a.mp4",
    )


class AnnotationReader:
    """Goes once through the files of a plan, a row at a time; never raises for any content of theirs."""

    def __init__(self, plan: AnnotationPlan, open_file: Callable[[str], BinaryIO]) -> None:
        self._plan = plan
        self._open_file = open_file
        self._ids = _SampleIds()
        self._format = plan.info.format
        self._ignored = _IgnoredTags()
        self.row_count = 0
        """Of all rows so far, sound or not."""

    @property
    def format(self) -> AnnotationFormat | None:
        """The form of the rows so far; None before the first that has a known one."""
        if not self._plan.file:
            return AnnotationFormat.TEXT_FILES
        return self._format.name if self._format else None

    def __iter__(self) -> Iterator[Row | Issue]:
        yield from self._plan.issues
        yield from self._file_rows() if self._plan.file else self._text_rows()

    def _text_rows(self) -> Iterator[Row | Issue]:
        for file, clip in self._plan.clips_by_text.items():
            self.row_count += 1
            # Not under the media root: the clip was found where it lies.
            builder = RowBuilder(MediaRoot())
            try:
                with self._open_file(file) as stream:
                    read_text_file(stream, clip, builder)
                yield self._row(file, Record(0, {}), builder)
            except BadRow as bad:
                yield _issue_of(bad, file, Record(0, {}))

    def _file_rows(self) -> Iterator[Row | Issue]:
        file = self._plan.file
        is_sound = True
        with self._open_file(file) as stream:
            for record in read_records(file, stream):
                if isinstance(record, Issue):
                    is_sound = False
                    self.row_count += record.row > 0
                    yield record
                    continue
                self.row_count += 1
                builder = RowBuilder(self._plan.info.media_root)
                try:
                    self._format_of(record).read(record.value, builder)
                    yield self._row(file, record, builder)
                except BadRow as bad:
                    yield _issue_of(bad, file, record)
        yield from self._ignored.warnings(file)
        if is_sound and self.row_count == 0:
            yield issue.error("ANNOTATIONS_EMPTY", "the annotation file has no row", "add at least one row", file=file)

    def _format_of(self, record: Record) -> Format:
        """Returns the format that all rows have; raises BadRow for a row of another one."""
        self._format = self._format or format_of(record.value)
        mapped = self._plan.info.format
        if self._format is not None and (mapped or format_of(record.value)) is self._format:
            return self._format
        what = f"the row has the fields {shown(', '.join(sorted(map(str, record.value))) or '(none)')}"
        forms = [self._format.shape] if self._format else [known.shape for known in FORMATS if known.writer]
        raise BadRow("FORMAT_UNKNOWN", "", what, f"write all rows alike, with {'; or '.join(forms)}")

    def _row(self, file: str, record: Record, builder: RowBuilder) -> Row:
        conversation = builder.build()
        split = read_split(record.value.get("split"))
        tags = read_tags(record.value)
        self._ignored.note(record.number, tags.ignored)
        messages = canonical_json(messages_to_json(conversation.messages))
        sample_id = self._ids.claim(read_sample_id(record.value.get("sample_id")), messages)
        return Row(
            file,
            record.number,
            Sample(sample_id, split, conversation.messages, tags.names),
            SampleText(sample_id, split, messages, tags.names),
            tuple(f"{record.prefix}{name}" for name in conversation.clip_fields),
        )


def _issue_of(bad: BadRow, file: str, record: Record) -> Issue:
    field = f"{record.prefix}{bad.field}".rstrip(".")
    return issue.error(bad.reason, bad.message, bad.remedy, file=file, row=record.number, field=field)


class _IgnoredTags:
    """Counts rows with a `category` that is no tag, for one warning of all."""

    def __init__(self) -> None:
        self._count = 0
        self._first = ""

    def note(self, row: int, ignored: str) -> None:
        if ignored:
            self._count += 1
            self._first = self._first or f"the first is row {row}: {ignored}"

    def warnings(self, file: str) -> Iterator[Issue]:
        if self._count:
            what = f"{self._count} rows have a category that makes no tag, and go without it; {self._first}"
            remedy = "nothing, if it is not meant as a tag; else give tags of up to 64 characters in the field tags"
            yield issue.warning("CATEGORY_IGNORED", what, remedy, file=file, field="category")


class _SampleIds:
    """Hands out the ids of one dataset's samples: each once, and the same ones for the same rows."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._copies: dict[str, int] = {}

    def claim(self, own: str | None, messages: str) -> str:
        if own is not None:
            if own in self._taken:
                what = f"another row has the sample_id {shown(own)!r}"
                raise BadRow("SAMPLE_ID_TWICE", "sample_id", what, "give each row its own")
            self._taken.add(own)
            return own
        by_content = content_id(messages)
        made = by_content
        # Equal rows differ by their count only, which also passes over the ids that rows gave themselves.
        while made in self._taken:
            copy = self._copies[by_content] = self._copies.get(by_content, 1) + 1
            made = f"{by_content}:{copy}"
        self._taken.add(made)
        return made
