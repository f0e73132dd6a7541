"""The verdict on a dataset: rows held against clips, what is wrong by file and row, and the fingerprint."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from catalog_svc.domain import issue
from catalog_svc.domain.annotations import Annotations, Row
from catalog_svc.domain.clip import REMEDIES, Clip, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.dataset import DatasetFindings
from catalog_svc.domain.file_path import extension, file_name
from catalog_svc.domain.issue import Issue, Severity, shown
from catalog_svc.domain.sample import TRAIN_SPLIT, Sample, canonical_json, messages_to_json
from catalog_svc.domain.upload import StoredFile

MAX_STORED_ISSUES = 10_000

VIDEO_EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".3g2",
        ".flv",
        ".ogv",
        ".wmv",
    ]
)
"""A file with one of these says that it is a clip: if it does not decode, that is an error even if no row uses it."""


@dataclass(frozen=True, slots=True)
class DatasetVerdict:
    """What a validation ends with."""

    findings: DatasetFindings
    issues: tuple[Issue, ...]
    samples: tuple[Sample, ...]
    """Empty unless the dataset is sound."""

    @property
    def is_sound(self) -> bool:
        return self.findings.errors == 0


def check_dataset(
    files: Sequence[StoredFile], annotations: Annotations | Issue, outcomes: Mapping[str, ProbeOutcome]
) -> DatasetVerdict:
    """Returns the verdict on a dataset.

    Args:
        files: All files in place.
        annotations: What the annotation file says, or why there is none.
        outcomes: What decoding found, by SHA-256, for every file but the annotation file.
    """
    if isinstance(annotations, Issue):
        annotations = Annotations("", None, 0, (), (annotations,))
    media = [file for file in files if file.path != annotations.file]
    uses = _uses_by_path(annotations.rows)
    clips = decoded_clips(media, outcomes)
    issues = [
        *annotations.issues,
        *_missing_clips(annotations, {file.path for file in media}),
        *_bad_files(media, outcomes, uses),
        *_beyond_end(annotations, {clip.path: clip for clip in clips}),
        *_unused(clips, uses),
        *_splits(annotations),
    ]
    return _verdict(annotations, clips, issues)


def decoded_clips(files: Iterable[StoredFile], outcomes: Mapping[str, ProbeOutcome]) -> list[Clip]:
    """Returns the files that are clips, by path."""
    clips = []
    for file in sorted(files, key=lambda file: file.path):
        outcome = outcomes.get(file.sha256)
        if isinstance(outcome, DecodedClip):
            clips.append(Clip(file.path, file.sha256, file.size_bytes, outcome))
    return clips


def fingerprint(samples: Iterable[Sample], clips: Iterable[Clip]) -> str:
    """Returns SHA-256 over the canonical rows, in order, and the digests of all clips, by path."""
    digest = hashlib.sha256()
    for sample in samples:
        row = {"sample_id": sample.sample_id, "split": sample.split, "messages": messages_to_json(sample.messages)}
        digest.update(f"row {canonical_json(row)}\n".encode())
    for clip in sorted(clips, key=lambda clip: clip.path):
        digest.update(f"clip {clip.sha256} {clip.path}\n".encode())
    return digest.hexdigest()


def _verdict(annotations: Annotations, clips: list[Clip], issues: list[Issue]) -> DatasetVerdict:
    issues.sort(key=lambda found: found.severity is Severity.WARNING)  # stable: within a severity the order stays
    errors = sum(found.severity is Severity.ERROR for found in issues)
    samples = tuple(row.sample for row in annotations.rows)
    train = sum(sample.split == TRAIN_SPLIT for sample in samples)
    findings = DatasetFindings(
        clips=len(clips),
        clips_checked=len(clips),
        duration_seconds=sum(clip.decoded.duration_seconds for clip in clips),
        rows=annotations.row_count,
        train_rows=train,
        eval_rows=len(samples) - train,
        errors=errors,
        warnings=len(issues) - errors,
        annotation_format=annotations.format,
    )
    if errors:
        return DatasetVerdict(findings, _shortened(issues), ())
    return DatasetVerdict(replace(findings, fingerprint=fingerprint(samples, clips)), _shortened(issues), samples)


def _uses_by_path(rows: Iterable[Row]) -> dict[str, list[tuple[int, str]]]:
    uses: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        for video, field in zip(row.sample.videos(), row.clip_fields, strict=True):
            uses[video.path].append((row.number, field))
    return uses


def _missing_clips(annotations: Annotations, paths: set[str]) -> Iterable[Issue]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        by_name[file_name(path).lower()].append(path)
    for row in annotations.rows:
        for video, field in zip(row.sample.videos(), row.clip_fields, strict=True):
            if video.path in paths:
                continue
            similar = by_name.get(file_name(video.path).lower(), [])
            remedy = (
                f"write {shown(similar[0])!r} if that is the clip, or upload it"
                if similar
                else "upload the clip, or remove the row"
            )
            what = f"there is no file {shown(video.path)!r} in the dataset"
            yield issue.error("CLIP_MISSING", what, remedy, file=annotations.file, row=row.number, field=field)


def _bad_files(
    media: Sequence[StoredFile], outcomes: Mapping[str, ProbeOutcome], uses: Mapping[str, list[tuple[int, str]]]
) -> Iterable[Issue]:
    for file in sorted(media, key=lambda file: file.path):
        outcome = outcomes.get(file.sha256)
        if isinstance(outcome, DecodedClip) and outcome.damaged_frames:
            what = f"{outcome.damaged_frames} of {outcome.frame_count} frames decode with damage"
            yield issue.warning("CLIP_DAMAGED", what, "encode the clip again from the original", file=file.path)
        if not isinstance(outcome, FaultyClip):
            continue
        used = uses.get(file.path, [])
        if not used and extension(file.path) not in VIDEO_EXTENSIONS:
            what = f"no row uses the file, and it is no clip: {outcome.detail}"
            yield issue.warning("FILE_UNUSED", what, "remove it, if it is not needed", file=file.path)
            continue
        row, field = used[0] if used else (0, "")
        users = f" ({len(used)} rows use it)" if len(used) > 1 else ""
        yield issue.error(
            outcome.fault.value, outcome.detail + users, REMEDIES[outcome.fault], file=file.path, row=row, field=field
        )


def _beyond_end(annotations: Annotations, clips: Mapping[str, Clip]) -> Iterable[Issue]:
    for row in annotations.rows:
        for video, field in zip(row.sample.videos(), row.clip_fields, strict=True):
            clip = clips.get(video.path)
            if clip is None or video.start_seconds is None or video.start_seconds < clip.decoded.duration_seconds:
                continue
            what = f"it starts at {video.start_seconds:g} s, the clip ends at {clip.decoded.duration_seconds:.2f} s"
            yield issue.error(
                "START_BEYOND_END",
                what,
                "give a start within the clip",
                file=annotations.file,
                row=row.number,
                field=field,
            )


def _unused(clips: Iterable[Clip], uses: Mapping[str, object]) -> Iterable[Issue]:
    for clip in clips:
        if clip.path not in uses:
            yield issue.warning("CLIP_UNUSED", "no row uses the clip", "add a row for it, or remove it", file=clip.path)


def _splits(annotations: Annotations) -> Iterable[Issue]:
    if annotations.rows and all(row.sample.split != TRAIN_SPLIT for row in annotations.rows):
        what = f"no row is in the split {TRAIN_SPLIT!r}: there is nothing to train on"
        yield issue.warning(
            "TRAIN_SPLIT_EMPTY", what, "set the split of some rows to train, or leave it out", file=annotations.file
        )


def _shortened(issues: Sequence[Issue]) -> tuple[Issue, ...]:
    if len(issues) <= MAX_STORED_ISSUES:
        return tuple(issues)
    kept = MAX_STORED_ISSUES - 1
    more = issue.warning(
        "MORE_ISSUES", f"{len(issues) - kept} more issues are not listed", "mend these and validate again"
    )
    return (*issues[:kept], replace(more, severity=issues[kept].severity))
