"""The verdict on a dataset: rows held against clips, what is wrong by file and row, and the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from catalog_svc.domain import issue
from catalog_svc.domain.annotations import AnnotationReader, Row
from catalog_svc.domain.clip import REMEDIES, VIDEO_EXTENSIONS, Clip, DecodedClip, FaultyClip, ProbeOutcome
from catalog_svc.domain.dataset import DatasetFindings
from catalog_svc.domain.file_path import extension, file_name
from catalog_svc.domain.issue import Issue, IssueList, shown
from catalog_svc.domain.near_duplicates import NearDuplicates
from catalog_svc.domain.quarantine import NOTHING_QUARANTINED, Quarantine
from catalog_svc.domain.sample import EVAL_SPLITS, TRAIN_SPLIT, SampleText, VideoPart
from catalog_svc.domain.upload import StoredFile


@dataclass(frozen=True, slots=True)
class DatasetVerdict:
    """What a validation ends with."""

    findings: DatasetFindings
    issues: tuple[Issue, ...]

    @property
    def is_sound(self) -> bool:
        return self.findings.errors == 0


@dataclass(slots=True)
class _Use:
    """How rows use a clip."""

    row: int
    """The number of the first."""
    field: str
    count: int = 0
    is_trained: bool = False
    """Whether a row of the split `train` shows it."""
    held_out_row: int = 0
    """The number of the first row of another split that shows it; 0: none does."""


def check_dataset(
    media: Sequence[StoredFile],
    annotations: AnnotationReader | Issue,
    outcomes: Mapping[str, ProbeOutcome],
    keep: Callable[[SampleText], None],
    quarantine: Quarantine = NOTHING_QUARANTINED,
) -> DatasetVerdict:
    """Returns the verdict on a dataset. Goes once through its rows, and keeps none of them itself.

    Args:
        media: All files in place but those that say what the clips show.
        annotations: What these say, or why there are none.
        outcomes: What decoding found, by SHA-256, for every one of `media`.
        keep: Takes the samples, in order; what it took is void unless the verdict is sound.
        quarantine: What is to be left out.
    """
    issues = IssueList()
    set_aside = frozenset(file.path for file in media if quarantine.holds_clip(file.path))
    media = [file for file in media if file.path not in set_aside]
    clips = decoded_clips(media, outcomes)
    check = _RowCheck(media, clips, issues, keep, quarantine)
    if isinstance(annotations, Issue):
        issues.add(annotations)
    else:
        check.run(annotations)
    issues.add_all(_bad_files(media, outcomes, check.uses))
    issues.add_all(_leaks(clips, check.uses))
    issues.add_all(
        issue.warning("CLIP_UNUSED", "no row uses the clip", "add a row for it, or remove it", file=clip.path)
        for clip in clips
        if clip.path not in check.uses
    )
    findings = DatasetFindings(
        clips=len(clips),
        clips_checked=len(clips),
        duration_seconds=sum(clip.decoded.duration_seconds for clip in clips),
        rows=0 if isinstance(annotations, Issue) else annotations.row_count - check.quarantined_rows,
        train_rows=check.train_rows,
        eval_rows=check.eval_rows,
        errors=issues.errors,
        warnings=issues.warnings,
        annotation_format=None if isinstance(annotations, Issue) else annotations.format,
        quarantined_rows=check.quarantined_rows,
        quarantined_clips=len(set_aside),
    )
    if not issues.errors:
        findings = replace(findings, fingerprint=check.fingerprint(clips))
    return DatasetVerdict(findings, issues.shortened())


def decoded_clips(files: Iterable[StoredFile], outcomes: Mapping[str, ProbeOutcome]) -> list[Clip]:
    """Returns the files that are clips, by path."""
    clips = []
    for file in sorted(files, key=lambda file: file.path):
        outcome = outcomes.get(file.sha256)
        if isinstance(outcome, DecodedClip):
            clips.append(Clip(file.path, file.sha256, file.size_bytes, outcome, file.place))
    return clips


class _RowCheck:
    """Holds rows against clips, one after another."""

    def __init__(
        self,
        media: Iterable[StoredFile],
        clips: Iterable[Clip],
        issues: IssueList,
        keep: Callable[[SampleText], None],
        quarantine: Quarantine,
    ) -> None:
        self.uses: dict[str, _Use] = {}
        self.sound_rows = 0
        self.train_rows = 0
        self.eval_rows = 0
        self.quarantined_rows = 0
        self._quarantine = quarantine
        self._paths = frozenset(file.path for file in media)
        self._paths_by_name = {file_name(path).lower(): path for path in sorted(self._paths, reverse=True)}
        self._clips = {clip.path: clip for clip in clips}
        self._issues = issues
        self._keep = keep
        self._digest = hashlib.sha256()

    def run(self, rows: Iterable[Row | Issue]) -> None:
        """Takes all rows."""
        file = ""
        for row in rows:
            if self._is_quarantined(row):
                file, self.quarantined_rows = row.file, self.quarantined_rows + 1
            elif isinstance(row, Issue):
                self._issues.add(row)
            else:
                file = row.file
                self._take(row)
        if self.quarantined_rows and not self.sound_rows and not self._issues.errors:
            what, remedy = "all rows are in quarantine", "upload the annotation file with at least one sound row"
            self._issues.add(issue.error("ROWS_ALL_QUARANTINED", what, remedy, file=file))
        if self.sound_rows and not self.train_rows:
            what = f"no row is in the split {TRAIN_SPLIT!r}: there is nothing to train on"
            remedy = "set the split of some rows to train, or leave it out"
            self._issues.add(issue.warning("TRAIN_SPLIT_EMPTY", what, remedy, file=file))

    def _is_quarantined(self, row: Row | Issue) -> bool:
        if isinstance(row, Issue):
            return self._quarantine.holds_row(row.file, row.row)
        if self._quarantine.holds_row(row.file, row.number):
            return True
        return any(self._quarantine.holds_clip(video.path) for video in row.sample.videos())

    def fingerprint(self, clips: Iterable[Clip]) -> str:
        """Returns SHA-256 over the canonical rows, in order, and the digests of all clips, by path."""
        for clip in sorted(clips, key=lambda clip: clip.path):
            self._digest.update(f"clip {clip.sha256} {clip.path}\n".encode())
        return self._digest.hexdigest()

    def _take(self, row: Row) -> None:
        self.sound_rows += 1
        self.train_rows += row.sample.split == TRAIN_SPLIT
        self.eval_rows += row.sample.split in EVAL_SPLITS
        for video, field in zip(row.sample.videos(), row.clip_fields, strict=True):
            use = self.uses.setdefault(video.path, _Use(row.number, field))
            use.count += 1
            if row.sample.split == TRAIN_SPLIT:
                use.is_trained = True
            else:
                use.held_out_row = use.held_out_row or row.number
            self._issues.add_all(self._bad_use(row, video, field))
        if not self._issues.errors:
            self._keep(row.text)
            self._digest.update(f"row {row.text.row_text()}\n".encode())

    def _bad_use(self, row: Row, video: VideoPart, field: str) -> Iterator[Issue]:
        if video.path not in self._paths:
            what = f"there is no file {shown(video.path)!r} in the dataset"
            yield issue.error(
                "CLIP_MISSING", what, self._missing_remedy(video.path), file=row.file, row=row.number, field=field
            )
        clip = self._clips.get(video.path)
        if clip and video.start_seconds is not None and video.start_seconds >= clip.decoded.duration_seconds:
            what = f"it starts at {video.start_seconds:g} s, the clip ends at {clip.decoded.duration_seconds:.2f} s"
            remedy = "give a start within the clip"
            yield issue.error("START_BEYOND_END", what, remedy, file=row.file, row=row.number, field=field)

    def _missing_remedy(self, path: str) -> str:
        similar = self._paths_by_name.get(file_name(path).lower())
        if similar is None:
            return "upload the clip, or remove the row"
        remedy = f"write {shown(similar)!r} if that is the clip, or upload it"
        if similar.endswith(f"/{path}"):
            folder = shown(similar.removesuffix(f"/{path}"))
            return f'{remedy}, or tell the folder of all clips in dataset_info.json: "media_root": "{folder}"'
        return remedy


def _bad_files(
    media: Iterable[StoredFile], outcomes: Mapping[str, ProbeOutcome], uses: Mapping[str, _Use]
) -> Iterator[Issue]:
    for file in sorted(media, key=lambda file: file.path):
        outcome = outcomes.get(file.sha256)
        if isinstance(outcome, DecodedClip) and outcome.damaged_frames:
            what = f"{outcome.damaged_frames} of {outcome.frame_count} frames decode with damage"
            yield issue.warning("CLIP_DAMAGED", what, "encode the clip again from the original", file=file.path)
        if not isinstance(outcome, FaultyClip):
            continue
        use = uses.get(file.path)
        if not use and extension(file.path) not in VIDEO_EXTENSIONS:
            what = f"no row uses the file, and it is no clip: {outcome.detail}"
            yield issue.warning("FILE_UNUSED", what, "remove it, if it is not needed", file=file.path)
            continue
        row, field = (use.row, use.field) if use else (0, "")
        users = f" ({use.count} rows use it)" if use and use.count > 1 else ""
        yield issue.error(
            outcome.fault.value, outcome.detail + users, REMEDIES[outcome.fault], file=file.path, row=row, field=field
        )


def _leaks(clips: Iterable[Clip], uses: Mapping[str, _Use]) -> Iterator[Issue]:
    """Finds clips of other splits that are in `train` as well: the same bytes, or what looks alike."""
    used = [(clip, uses[clip.path]) for clip in clips if clip.path in uses]
    trained = [clip for clip, use in used if use.is_trained]
    by_digest = {clip.sha256: clip for clip in reversed(trained)}
    alike = NearDuplicates(trained)
    remedy = f"hold other clips out, or put all rows about the clip in the split {TRAIN_SPLIT!r}"
    for clip, use in used:
        if not use.held_out_row:
            continue
        if same := by_digest.get(clip.sha256):
            copy = "" if same.path == clip.path else f", as {shown(same.path)!r}"
            what = f"the clip is held out, and rows of the split {TRAIN_SPLIT!r} show it as well{copy}"
            yield issue.warning("HELD_OUT_CLIP_IN_TRAIN", what, remedy, file=clip.path, row=use.held_out_row)
        elif found := alike.find(clip):
            what = f"the clip is held out, and looks like {shown(found.path)!r} in the split {TRAIN_SPLIT!r}"
            yield issue.warning("HELD_OUT_CLIP_LIKE_TRAIN", what, remedy, file=clip.path, row=use.held_out_row)
        elif alike.is_exhausted:
            what = (
                f"too many clips look nearly alike to compare all: clips from {shown(clip.path)!r} on were not compared"
            )
            yield issue.warning("LOOKALIKES_NOT_SOUGHT", what, "split the dataset in two to have all compared")
            return
