"""The canonical rows of a dataset folder: `rows.jsonl` beside `clips/`. Reads JSON; decodes nothing.

One row is one conversation, with its videos as content parts:

    {"sample_id": "s1", "split": "train", "messages": [
      {"role": "user", "content": [{"type": "video", "uri": "a.mp4", "start": 0.5, "end": 2.0, "max_frames": 8},
                                   {"type": "text", "text": "What moves?"}]},
      {"role": "assistant", "content": [{"type": "text", "text": "A ball."}]}]}

`uri` is a path inside the dataset folder, or the name of a file in its `clips/`. `split` is train (default),
eval or test; start, end, fps, max_frames and max_pixels are optional and win over the run's own sampling. `tags`, a
list of texts, is optional: evaluations tell of each tag by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.frame_sampling import FrameRequest
from trainer_svc.qlora.spec import SamplingSpec

_ROLES = ("system", "user", "assistant")
KNOWN_SPLITS = {"train": "train", "eval": "eval", "validation": "eval", "val": "eval", "test": "test"}
"""What rows may call their split, and which one it is."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Clip:
    """A video part of a message. None: as the run's sampling says."""

    path: Path
    start: float = 0.0
    end: float | None = None
    fps: float | None = None
    max_frames: int | None = None
    max_pixels: int | None = None
    draw: str = ""
    """What random places of its frames are drawn from; empty for the middle of each segment."""

    def frame_request(self, sampling: SamplingSpec) -> FrameRequest:
        """What to decode, this clip's own settings first."""
        return FrameRequest(
            start=self.start,
            end=self.end,
            fps=sampling.fps if self.fps is None else self.fps,
            max_frames=self.max_frames or sampling.max_frames,
            min_frames=min(sampling.min_frames, self.max_frames or sampling.max_frames),
            max_pixels=self.max_pixels or sampling.max_pixels,
            by_segments=sampling.placement == "segment_jitter",
            draw=self.draw if sampling.placement == "segment_jitter" else "",
        )


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    parts: tuple[str | Clip, ...]
    """Texts and clips in order."""


@dataclass(frozen=True, slots=True)
class Sample:
    sample_id: str
    split: str
    turns: tuple[Turn, ...]
    tags: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Clip))


def load_samples(dataset: Path) -> list[Sample]:
    """Every row of `dataset`/rows.jsonl, checked; no clip is decoded, but each must be a file of more than 0 bytes.

    Raises `BadDataError` that lists the first ten problems by row and field.
    """
    rows = dataset / "rows.jsonl"
    try:
        # Not `splitlines`, for which a line also ends at U+2028 and others that a text may hold.
        lines = rows.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadDataError(
            f"{rows.name} cannot be read: {error}", "a dataset folder holds rows.jsonl and clips/"
        ) from error
    samples: list[Sample] = []
    problems: list[str] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            sample = _sample(json.loads(line), dataset, seen)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"row {number}: {error}")
            continue
        seen.add(sample.sample_id)
        samples.append(sample)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (
            "" if len(problems) <= _SHOWN else f"; and {len(problems) - _SHOWN} more"
        )
        raise BadDataError(f"rows.jsonl: {shown}", "correct or remove these rows")
    return samples


def read_sample(row: object, dataset: Path) -> Sample:
    """One row by itself, checked as `load_samples` does. Raises `BadDataError`."""
    try:
        return _sample(row, dataset, set())
    except (ValueError, KeyError, TypeError) as error:
        raise BadDataError(f"the row cannot be read: {error}", "correct or remove it") from error


def split_samples(samples: Sequence[Sample], eval_fraction: float) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out). Rows that name the split eval are held out; when none does, a share chosen by
    sample id, so that it stays the same when rows are added or moved. Raises `BadDataError` when nothing is left."""
    held_out = [sample for sample in samples if sample.split == "eval"]
    training = [sample for sample in samples if sample.split == "train"]
    if not held_out and eval_fraction > 0:
        held_out = [sample for sample in training if _share(sample.sample_id) < eval_fraction]
        training = [sample for sample in training if _share(sample.sample_id) >= eval_fraction]
    if not training:
        raise BadDataError("no row is left to train on", "add rows of the split train or lower eval_fraction")
    return training, held_out


def _share(sample_id: str) -> float:
    """A number in [0, 1) that depends on nothing but the id."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big") / 2**64


def _sample(row: Any, dataset: Path, seen: set[str]) -> Sample:
    if not isinstance(row, dict):
        raise ValueError("is not an object")
    sample_id = row.get("sample_id")
    if not isinstance(sample_id, str) or not sample_id:
        raise ValueError("sample_id: missing or not a string")
    if sample_id in seen:
        raise ValueError(f"sample_id: {sample_id!r} is used twice")
    split = row.get("split") or "train"
    if split not in KNOWN_SPLITS:
        raise ValueError(f"split: {split!r} is none of {', '.join(KNOWN_SPLITS)}")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: missing or empty")
    turns = tuple(_turn(message, f"messages[{index}]", dataset) for index, message in enumerate(messages))
    if not any(turn.role == "assistant" for turn in turns):
        raise ValueError("messages: no assistant turn, so nothing to learn")
    return Sample(sample_id, KNOWN_SPLITS[split], turns, _tags(row.get("tags")))


def _tags(tags: Any) -> tuple[str, ...]:
    if tags is None:
        return ()
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ValueError("tags: not a list of texts")
    return tuple(dict.fromkeys(tags))


def _turn(message: Any, where: str, dataset: Path) -> Turn:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        raise ValueError(f"{where}.role: {role!r} is none of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}.content: missing or empty")
    parts = tuple(_part(part, f"{where}.content[{index}]", dataset) for index, part in enumerate(content))
    if message["role"] == "assistant":
        if any(isinstance(part, Clip) for part in parts):
            raise ValueError(f"{where}.content: an assistant's turn cannot hold a video")
        if not "".join(str(part) for part in parts).strip():
            raise ValueError(f"{where}.content: the answer is empty")
    return Turn(message["role"], parts)


def _part(part: Any, where: str, dataset: Path) -> str | Clip:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind != "video":
        raise ValueError(f"{where}.type: {kind!r} is none of text, video")
    start, end = _number(part, "start", where) or 0.0, _number(part, "end", where)
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"{where}: start {start} and end {end} enclose nothing")
    return Clip(
        find_clip(dataset, part.get("uri"), where),
        start,
        end,
        _number(part, "fps", where),
        _whole(part, "max_frames", where),
        _whole(part, "max_pixels", where),
    )


def find_clip(dataset: Path, uri: object, where: str) -> Path:
    """The file that `uri` names inside `dataset`. Raises `ValueError` when it is missing, empty or outside."""
    if not isinstance(uri, str) or not uri:
        raise ValueError(f"{where}.uri: missing or not a string")
    inner = PurePosixPath(uri)
    if inner.is_absolute() or ".." in inner.parts or "://" in uri:
        raise ValueError(f"{where}.uri: {uri!r} is no path inside the dataset folder")
    for candidate in (dataset / inner, dataset / "clips" / inner):
        if candidate.is_file():
            if candidate.stat().st_size == 0:
                raise ValueError(f"{where}.uri: the clip {uri!r} has 0 bytes")
            return candidate
    raise ValueError(f"{where}.uri: there is no clip {uri!r} in the dataset folder")


def _number(part: dict[str, Any], name: str, where: str) -> float | None:
    value = part.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"{where}.{name}: {value!r} is no number of 0 or more")
    return float(value)


def _whole(part: dict[str, Any], name: str, where: str) -> int | None:
    value = _number(part, name, where)
    return None if not value else int(value)
